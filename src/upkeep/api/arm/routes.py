"""All that Azure's dialect has: method, path, the role that it needs, handler.

`app.py` serves it; docs/azure-dialect.md says what of Azure it is.
"""

from upkeep.api.arm import (
    deployments,
    galleries,
    instances,
    lifecycle_hooks,
    maintenance,
    networks,
    operations,
    power,
    providers,
    resource_groups,
    rolling_upgrades,
    scale_sets,
    scopes,
    set_changes,
    vm_images,
)
from upkeep.api.arm.login import Login, endpoints, openid
from upkeep.api.arm.route import Handler, Route, reads, writes
from upkeep.api.arm.scopes import COMPUTE, SETS
from upkeep.api.auth import Role
from upkeep.core.model import Verb

READ, OPERATE = Role.READER, Role.OPERATOR

_SUB = "/subscriptions/{subscription}"
_RG = f"{_SUB}/resourceGroups/{{group}}"
_SET = f"{_RG}/{SETS}/{{set}}"
_INSTANCE = f"{_SET}/virtualMachines/{{instance}}"
_HOOK_EVENT = f"{_SET}/{lifecycle_hooks.EVENTS}/{{event}}"
_GALLERY = f"{_RG}/{COMPUTE}/galleries/{{gallery}}"
_IMAGE = f"{_GALLERY}/images/{{image}}"
_VERSION = f"{_IMAGE}/versions/{{version}}"
_NETWORKS = f"{_RG}/providers/Microsoft.Network/virtualNetworks"
_DEPLOYMENTS = f"{_RG}/providers/Microsoft.Resources/deployments"
_DEPLOYMENT = f"{_DEPLOYMENTS}/{{deployment}}"
_CONFIGURATIONS = f"{_RG}/{maintenance.CONFIGURATIONS}"
_CONFIGURATION = f"{_CONFIGURATIONS}/{{configuration}}"
_ASSIGNMENTS = f"{_SET}/{maintenance.ASSIGNMENTS}"
_ASSIGNMENT = f"{_ASSIGNMENTS}/{{assignment}}"
_LOCATION = f"{_SUB}/{COMPUTE}/locations/{{location}}"
_OFFERS = f"{_LOCATION}/publishers/{{publisher}}/artifacttypes/vmimage/offers"
_SKUS = f"{_OFFERS}/{{offer}}/skus"


_ROWS: tuple[tuple[str, str, Role, Handler], ...] = (
    ("GET", "/subscriptions", READ, reads(scopes.list_subscriptions)),
    ("GET", "/tenants", READ, reads(scopes.list_tenants)),
    ("GET", _SUB, READ, reads(scopes.show_subscription)),
    ("GET", f"{_SUB}/resourceGroups", READ, reads(resource_groups.show_list)),
    ("GET", _RG, READ, reads(resource_groups.show)),
    ("HEAD", _RG, READ, reads(resource_groups.exists)),
    ("PUT", _RG, OPERATE, writes(resource_groups.put)),
    ("DELETE", _RG, OPERATE, writes(resource_groups.delete)),
    ("GET", f"{_SUB}/providers", READ, reads(providers.show_list)),
    ("GET", f"{_SUB}/providers/{{provider}}", READ, reads(providers.show)),
    ("POST", f"{_SUB}/providers/{{provider}}/register", READ, reads(providers.show)),
    ("GET", f"{_SUB}/{COMPUTE}/galleries", READ, reads(galleries.show_list)),
    ("GET", f"{_RG}/{COMPUTE}/galleries", READ, reads(galleries.show_list)),
    ("GET", _GALLERY, READ, reads(galleries.show)),
    ("GET", f"{_GALLERY}/images", READ, reads(galleries.show_images)),
    ("GET", _IMAGE, READ, reads(galleries.show_image)),
    ("PUT", _IMAGE, OPERATE, writes(galleries.put_image)),
    ("GET", f"{_IMAGE}/versions", READ, reads(galleries.show_versions)),
    ("GET", _VERSION, READ, reads(galleries.show_version)),
    ("PUT", _VERSION, OPERATE, writes(galleries.put_version)),
    ("PATCH", _VERSION, OPERATE, writes(galleries.patch_version)),
    ("GET", _DEPLOYMENTS, READ, reads(deployments.show_list)),
    ("GET", _DEPLOYMENT, READ, reads(deployments.show)),
    ("PUT", _DEPLOYMENT, OPERATE, writes(deployments.put)),
    (
        "GET",
        f"{_DEPLOYMENT}/operationStatuses/{{operation}}",
        READ,
        reads(deployments.show_status),
    ),
    ("GET", f"{_LOCATION}/publishers", READ, reads(vm_images.show_publishers)),
    ("GET", _OFFERS, READ, reads(vm_images.show_offers)),
    ("GET", _SKUS, READ, reads(vm_images.show_skus)),
    ("GET", f"{_SKUS}/{{sku}}/versions", READ, reads(vm_images.show_versions)),
    ("GET", f"{_SKUS}/{{sku}}/versions/{{version}}", READ, reads(vm_images.show_version)),
    ("GET", f"{_SUB}/{maintenance.CONFIGURATIONS}", READ, reads(maintenance.show_list)),
    ("GET", _CONFIGURATIONS, READ, reads(maintenance.show_list)),
    ("GET", _CONFIGURATION, READ, reads(maintenance.show)),
    ("PUT", _CONFIGURATION, OPERATE, writes(maintenance.put)),
    ("PATCH", _CONFIGURATION, OPERATE, writes(maintenance.patch)),
    ("DELETE", _CONFIGURATION, OPERATE, writes(maintenance.delete)),
    ("GET", _ASSIGNMENTS, READ, reads(maintenance.show_assignments)),
    ("GET", _ASSIGNMENT, READ, reads(maintenance.show_assignment)),
    ("PUT", _ASSIGNMENT, OPERATE, writes(maintenance.assign)),
    ("DELETE", _ASSIGNMENT, OPERATE, writes(maintenance.unassign)),
    ("GET", _NETWORKS, READ, reads(networks.show_list)),
    ("GET", f"{_NETWORKS}/{{network}}", READ, reads(networks.show)),
    ("GET", f"{_NETWORKS}/{{network}}/subnets/{{subnet}}", READ, reads(networks.show_subnet)),
    ("GET", f"{_SUB}/{SETS}", READ, reads(scale_sets.show_list)),
    ("GET", f"{_LOCATION}/virtualMachineScaleSets", READ, reads(scale_sets.show_list)),
    ("GET", f"{_LOCATION}/operations/{{operation}}", READ, reads(operations.show)),
    ("GET", f"{_RG}/{SETS}", READ, reads(scale_sets.show_list)),
    ("GET", _SET, READ, reads(scale_sets.show)),
    ("PUT", _SET, OPERATE, writes(set_changes.put)),
    ("PATCH", _SET, OPERATE, writes(set_changes.patch)),
    ("DELETE", _SET, OPERATE, writes(set_changes.delete)),
    ("GET", f"{_SET}/instanceView", READ, reads(scale_sets.show_view)),
    ("GET", f"{_SET}/virtualMachines", READ, reads(instances.show_list)),
    ("GET", _INSTANCE, READ, reads(instances.show)),
    ("PUT", _INSTANCE, OPERATE, instances.change),
    ("GET", f"{_INSTANCE}/instanceView", READ, reads(instances.show_view)),
    ("GET", f"{_SET}/rollingUpgrades/latest", READ, reads(rolling_upgrades.show_latest)),
    ("GET", f"{_SET}/osUpgradeHistory", READ, reads(rolling_upgrades.show_history)),
    ("GET", f"{_SET}/{lifecycle_hooks.EVENTS}", READ, reads(lifecycle_hooks.show_list)),
    ("GET", _HOOK_EVENT, READ, reads(lifecycle_hooks.show)),
    ("PATCH", _HOOK_EVENT, OPERATE, writes(lifecycle_hooks.patch)),
    (
        "POST",
        f"{_SET}/setOrchestrationServiceState",
        OPERATE,
        writes(set_changes.set_service_state),
    ),
    ("POST", f"{_SET}/restart", OPERATE, power.of_set(Verb.RESTART)),
    # Every platform has one host, so an instance is restarted where it is.
    ("POST", f"{_SET}/redeploy", OPERATE, power.of_set(Verb.RESTART)),
    ("POST", f"{_SET}/reapply", OPERATE, writes(set_changes.reapply)),
    ("POST", f"{_SET}/scaleOut", OPERATE, writes(set_changes.scale_out)),
    ("POST", f"{_SET}/reimage", OPERATE, power.of_set(Verb.REIMAGE)),
    ("POST", f"{_SET}/reimageall", OPERATE, power.of_set(Verb.REIMAGE)),
    ("POST", f"{_SET}/start", OPERATE, power.of_set(Verb.START)),
    ("POST", f"{_SET}/powerOff", OPERATE, power.of_set(Verb.STOP)),
    ("POST", f"{_SET}/deallocate", OPERATE, power.of_set(Verb.STOP)),
    ("POST", f"{_SET}/delete", OPERATE, power.of_set(Verb.DELETE, must_name=True)),
    ("POST", f"{_INSTANCE}/restart", OPERATE, power.of_instance(Verb.RESTART)),
    ("POST", f"{_INSTANCE}/redeploy", OPERATE, power.of_instance(Verb.RESTART)),
    ("POST", f"{_INSTANCE}/reimage", OPERATE, power.of_instance(Verb.REIMAGE)),
    ("POST", f"{_INSTANCE}/reimageall", OPERATE, power.of_instance(Verb.REIMAGE)),
    ("POST", f"{_INSTANCE}/start", OPERATE, power.of_instance(Verb.START)),
    ("POST", f"{_INSTANCE}/powerOff", OPERATE, power.of_instance(Verb.STOP)),
    ("POST", f"{_INSTANCE}/deallocate", OPERATE, power.of_instance(Verb.STOP)),
    ("DELETE", _INSTANCE, OPERATE, power.of_instance(Verb.DELETE)),
    ("POST", f"{_SET}/osRollingUpgrade", OPERATE, rolling_upgrades.start),
    ("POST", f"{_SET}/manualupgrade", OPERATE, rolling_upgrades.upgrade_instances),
    ("POST", f"{_SET}/rollingUpgrades/cancel", OPERATE, writes(rolling_upgrades.cancel)),
    ("POST", f"{_SET}/approveRollingUpgrade", OPERATE, writes(rolling_upgrades.approve)),
    ("POST", f"{_INSTANCE}/approveRollingUpgrade", OPERATE, writes(rolling_upgrades.approve)),
)


def routes(login: Login) -> tuple[Route, ...]:
    """The table, after what a login needs, which is open to everybody."""
    anonymous = (
        ("GET", "/metadata/endpoints", endpoints),
        ("GET", "/adfs/.well-known/openid-configuration", openid),
        ("POST", "/adfs/oauth2/token", login.token),
    )
    return (
        *(Route(method=m, path=path, role=None, handler=handler) for m, path, handler in anonymous),
        *(Route(method=m, path=path, role=role, handler=h) for m, path, role, h in _ROWS),
    )

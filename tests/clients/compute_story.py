"""What a person does with azure-mgmt-compute, run by the Python that has it: prints JSON lines.

`compute_story.py STEP BASE SUBSCRIPTION RESOURCE_GROUP SET`; the token is in the environment as
UPKEEP_TOKEN, the server's CA in REQUESTS_CA_BUNDLE.  Nothing of upkeep is imported here: these are
Azure's own clients, unmodified.  Those from before 2021 tell the same story; they log in, begin an
operation and say an error in other ways.
"""

import base64
import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta

from azure.mgmt.compute import ComputeManagementClient

try:
    from azure.core.exceptions import HttpResponseError as Refused
    from azure.identity import ClientSecretCredential
    from azure.mgmt.maintenance import MaintenanceManagementClient
except ImportError:
    ClientSecretCredential = MaintenanceManagementClient = None
    from msrestazure.azure_active_directory import ServicePrincipalCredentials
    from msrestazure.azure_cloud import get_cloud_from_metadata_endpoint
    from msrestazure.azure_exceptions import CloudError as Refused

STEP, BASE, SUBSCRIPTION, GROUP, SET = sys.argv[1:]
WAIT_MAX_S = 120.0
# The set that is created, changed and deleted beside the one that is there.
NEW = "till"
OF_SET = (GROUP, "Microsoft.Compute", "virtualMachineScaleSets", SET)


def client(kind=ComputeManagementClient):
    """Logs in as a service principal, as for any private cloud."""
    client_id, _, secret = os.environ["UPKEEP_TOKEN"].partition(".")
    if ClientSecretCredential is None:
        credential = ServicePrincipalCredentials(
            client_id=client_id, secret=secret, tenant="adfs",
            cloud_environment=get_cloud_from_metadata_endpoint(BASE),
        )  # fmt: skip
        return ComputeManagementClient(credential, SUBSCRIPTION, base_url=BASE)
    credential = ClientSecretCredential(
        "adfs", client_id, secret, authority=BASE, disable_instance_discovery=True
    )
    return kind(credential, SUBSCRIPTION, base_url=BASE, credential_scopes=[f"{BASE}/.default"])


def done(operations, name, *arguments):
    """The operation, waited for as the client waits; what it answers."""
    method = getattr(operations, f"begin_{name}", None) or getattr(operations, name)
    return method(*arguments).result()


def ids(*numbers):
    """Instances, as the body or the argument that the client takes."""
    return list(numbers) if ClientSecretCredential is None else {"instanceIds": list(numbers)}


def tell(**said):
    print(json.dumps(said), flush=True)


def tell_failure(error):
    said = error.error
    code = said.error if ClientSecretCredential is None else said.code
    tell(status=error.status_code, code=code, message=said.message)


def progress_of(upgrade):
    counters = upgrade.progress
    return {
        "successful": counters.successful_instance_count,
        "failed": counters.failed_instance_count,
        "in_progress": counters.in_progress_instance_count,
        "pending": counters.pending_instance_count,
    }


def look(compute):
    """The set, its machines, and what is seen of both."""
    found = compute.virtual_machine_scale_sets.get(GROUP, SET)
    view = compute.virtual_machine_scale_sets.get_instance_view(GROUP, SET)
    machines = list(compute.virtual_machine_scale_set_vms.list(GROUP, SET, expand="instanceView"))
    tell(
        names=[each.name for each in compute.virtual_machine_scale_sets.list_all()],
        in_group=[each.name for each in compute.virtual_machine_scale_sets.list(GROUP)],
        id=found.id,
        state=found.provisioning_state,
        capacity=found.sku.capacity,
        automatic=found.upgrade_policy.automatic_os_upgrade_policy.enable_automatic_os_upgrade,
        batch=found.upgrade_policy.rolling_upgrade_policy.max_batch_instance_percent,
        summary={each.code: each.count for each in view.virtual_machine.statuses_summary},
        versions=[each.storage_profile.image_reference.exact_version for each in machines],
        current=[each.latest_model_applied for each in machines],
        health=[each.instance_view.vm_health.status.code for each in machines],
        ids=[each.instance_id for each in machines],
    )
    one = compute.virtual_machine_scale_set_vms.get(GROUP.upper(), SET.upper(), "0")
    seen = compute.virtual_machine_scale_set_vms.get_instance_view(GROUP, SET, "0")
    tell(name=one.name, power=[each.code for each in seen.statuses])
    catalogue = compute.virtual_machine_images
    where = ("local", "upkeep", SET, "default")
    newest = catalogue.list(*where, top=1, orderby="name desc")[0].name
    tell(
        offers=[each.name for each in catalogue.list_offers("local", "upkeep")],
        newest=newest,
        automatic=catalogue.get(
            *where, newest
        ).automatic_os_upgrade_properties.automatic_os_upgrade_supported,
    )


def follow(compute):
    """The rolling upgrade until it has ended: each state that was seen, with its counters."""
    deadline = time.monotonic() + WAIT_MAX_S
    seen = []
    while time.monotonic() < deadline:
        upgrade = compute.virtual_machine_scale_set_rolling_upgrades.get_latest(GROUP, SET)
        now = {"code": upgrade.running_status.code, **progress_of(upgrade)}
        if not seen or seen[-1] != now:
            seen.append(now)
        if now["code"] not in ("RollingForward", "RollingBack"):
            error = upgrade.error
            tell(seen=seen, id=upgrade.id, code=error and error.code, why=error and error.message)
            return
        time.sleep(0.05)
    tell(seen=seen, late=True)


def defer(compute):
    """From now on each machine's upgrade waits for a word."""
    change_deferral(compute, True)


def change_deferral(compute, wanted):
    automatic = {"enableAutomaticOSUpgrade": True, "osRollingUpgradeDeferral": wanted}
    policy = {"upgradePolicy": {"automaticOSUpgradePolicy": automatic}}
    done(compute.virtual_machine_scale_sets, "update", GROUP, SET, {"properties": policy})


def approve(compute):
    """One machine of the deferred roll, seen to be upgraded while the others wait; then all."""
    sets, machines = compute.virtual_machine_scale_sets, compute.virtual_machine_scale_set_vms

    def progress():
        upgrade = compute.virtual_machine_scale_set_rolling_upgrades.get_latest(GROUP, SET)
        return progress_of(upgrade)

    tell(waiting=progress())
    done(machines, "approve_rolling_upgrade", GROUP, SET, "1")
    deadline = time.monotonic() + WAIT_MAX_S
    while progress()["successful"] < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    current = [each.instance_id for each in machines.list(GROUP, SET) if each.latest_model_applied]
    tell(current=current, progress=progress())
    done(sets, "approve_rolling_upgrade", GROUP, SET, {"instanceIds": ["0", "2", "3"]})


def close(compute):
    """The set's upgrades wait for a window that opens in two days."""
    if MaintenanceManagementClient is None:
        tell(can=False)
        return
    maintenance = client(MaintenanceManagementClient)
    closed = window(datetime.now(UTC) + timedelta(days=2), "Week", "05:00")
    wanted = {"location": "local", "maintenanceScope": "osimage", "maintenanceWindow": closed}
    made = maintenance.maintenance_configurations.create_or_update(
        GROUP, "nights", {"location": "local", "properties": wanted}
    )
    tell(can=True, scope=made.maintenance_scope, length=made.duration, zone=made.time_zone)
    assigned = maintenance.configuration_assignments.create_or_update(
        *OF_SET, "by-night",
        {"location": "local", "properties": {"maintenanceConfigurationId": made.id}},
    )  # fmt: skip
    tell(
        names=[each.name for each in maintenance.configuration_assignments.list(*OF_SET)],
        same=assigned.maintenance_configuration_id == made.id,
    )
    try:
        short = {**wanted, "maintenanceWindow": {**closed, "duration": "04:59"}}
        maintenance.maintenance_configurations.create_or_update(
            GROUP, "short", {"location": "local", "properties": short}
        )
    except Refused as error:
        tell_failure(error)


def open_window(compute):
    """The window is changed to one that is open."""
    maintenance = client(MaintenanceManagementClient)
    opened = window(datetime.now(UTC) - timedelta(hours=1), "Day", "20:00")
    changed = maintenance.maintenance_configurations.update(
        GROUP, "nights", {"properties": {"maintenanceWindow": opened}}
    )
    tell(every=changed.recur_every, length=changed.duration)


def free(compute):
    """From now on the set waits for nobody and nothing."""
    change_deferral(compute, False)
    maintenance = client(MaintenanceManagementClient)
    maintenance.configuration_assignments.delete(*OF_SET, "by-night")
    maintenance.maintenance_configurations.delete(GROUP, "nights")
    tell(left=[each.name for each in maintenance.maintenance_configurations.list()])


def window(starts, every, length):
    return {
        "startDateTime": starts.strftime("%Y-%m-%d %H:00"), "duration": length,
        "timeZone": "UTC", "recurEvery": every,
    }  # fmt: skip


def model(compute):
    """Custom data that breaks nothing, in mode Rolling; then whoever is asked has it."""
    sets, machines = compute.virtual_machine_scale_sets, compute.virtual_machine_scale_set_vms
    script = base64.b64encode(b"#!/bin/sh\necho told >> /data/told\n").decode()
    wanted = {
        "upgradePolicy": {"mode": "Rolling"},
        "virtualMachineProfile": {"osProfile": {"customData": script}},
    }
    changed = done(sets, "update", GROUP, SET, {"properties": wanted})
    current = [each.latest_model_applied for each in machines.list(GROUP, SET)]
    tell(mode=changed.upgrade_policy.mode, behind=current.count(False) > 0)
    deadline = time.monotonic() + WAIT_MAX_S
    while not all(current) and time.monotonic() < deadline:
        time.sleep(0.05)
        current = [each.latest_model_applied for each in machines.list(GROUP, SET)]
    upgrade = compute.virtual_machine_scale_set_rolling_upgrades.get_latest(GROUP, SET)
    tell(current=current, progress=progress_of(upgrade))
    done(sets, "update", GROUP, SET, {"properties": {"upgradePolicy": {"mode": "Manual"}}})


def history(compute):
    past = compute.virtual_machine_scale_sets.get_os_upgrade_history(GROUP, SET)
    tell(
        past=[
            {
                "code": each.properties.running_status.code,
                "version": each.properties.target_image_reference.exact_version,
                "started_by": each.properties.started_by,
                "rolled_back": (
                    each.properties.rollback_info.successfully_rolledback_instance_count
                ),
            }
            for each in past
        ]
    )


def start(compute):
    """Started by hand, and waited for as the client waits."""
    try:
        done(compute.virtual_machine_scale_set_rolling_upgrades, "start_os_upgrade", GROUP, SET)
    except Refused as error:
        tell_failure(error)
    else:
        tell(status="done")


def cancel(compute):
    try:
        done(compute.virtual_machine_scale_set_rolling_upgrades, "cancel", GROUP, SET)
    except Refused as error:
        tell_failure(error)
    else:
        tell(status="done")


def power(compute):
    """Off, on, restarted, and one machine removed: each waited for as the client waits."""
    sets, machines = compute.virtual_machine_scale_sets, compute.virtual_machine_scale_set_vms

    def states():
        views = machines.list(GROUP, SET, expand="instanceView")
        return [each.instance_view.statuses[1].code for each in views]

    done(machines, "power_off", GROUP, SET, "0")
    tell(off=states())
    done(sets, "start", GROUP, SET)
    tell(on=states())
    done(sets, "restart", GROUP, SET, ids("1"))
    tell(restarted=states())
    done(sets, "delete_instances", GROUP, SET, ids("3"))
    tell(
        left=[each.instance_id for each in machines.list(GROUP, SET)],
        capacity=sets.get(GROUP, SET).sku.capacity,
    )
    try:
        done(machines, "restart", GROUP, SET, "99")
    except Refused as error:
        tell_failure(error)


def create(compute):
    """A set of two machines that upgrades itself, from nothing."""
    image = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Compute"
    health = {
        "publisher": "Microsoft.ManagedServices",
        "type": "ApplicationHealthLinux",
        "typeHandlerVersion": "1.0",
        "settings": {"protocol": "http", "port": 8080, "requestPath": "/health"},
    }
    automatic = {"enableAutomaticOSUpgrade": True, "useRollingUpgradePolicy": True}
    wanted = {
        "location": "local",
        "sku": {"name": "Upkeep_1cpu_128mib", "capacity": 2},
        "tags": {"made": "by hand"},
        "properties": {
            "upgradePolicy": {"mode": "Manual", "automaticOSUpgradePolicy": automatic},
            "virtualMachineProfile": {
                "storageProfile": {
                    "imageReference": {"id": f"{image}/galleries/upkeep/images/{SET}"}
                },
                "extensionProfile": {"extensions": [{"name": "health", "properties": health}]},
            },
        },
    }
    sets, machines = compute.virtual_machine_scale_sets, compute.virtual_machine_scale_set_vms
    made = done(sets, "create_or_update", GROUP, NEW, wanted)
    found = list(machines.list(GROUP, NEW, expand="instanceView"))
    tell(
        state=made.provisioning_state,
        tags=made.tags,
        batch=made.upgrade_policy.rolling_upgrade_policy.max_batch_instance_percent,
        names=[each.name for each in found],
        versions=[each.storage_profile.image_reference.exact_version for each in found],
    )
    wanted["properties"]["upgradePolicy"]["rollingUpgradePolicy"] = {
        "maxBatchInstancePercent": 21, "maxUnhealthyInstancePercent": 20,
        "maxUnhealthyUpgradedInstancePercent": 20, "pauseTimeBetweenBatches": "PT0S",
    }  # fmt: skip
    try:
        done(sets, "create_or_update", GROUP, NEW, wanted)
    except Refused as error:
        tell_failure(error)


def protect(compute):
    """The newest machine of the set is to stay; then the set shrinks by one, and goes."""
    sets, machines = compute.virtual_machine_scale_sets, compute.virtual_machine_scale_set_vms
    newest = machines.get(GROUP, NEW, "1")
    kept = {"location": newest.location, "properties": {"protectionPolicy": {}}}
    kept["properties"]["protectionPolicy"]["protectFromScaleIn"] = True
    policy = done(machines, "update", GROUP, NEW, "1", kept).protection_policy
    tell(scale_in=policy.protect_from_scale_in, actions=policy.protect_from_scale_set_actions)
    done(sets, "update", GROUP, NEW, {"sku": {"capacity": 1}})
    tell(left=[each.instance_id for each in machines.list(GROUP, NEW)])
    done(sets, "delete", GROUP, NEW)
    tell(names=[each.name for each in sets.list(GROUP)])


STEPS = {
    "create": create,
    "protect": protect,
    "look": look,
    "close": close,
    "open": open_window,
    "free": free,
    "defer": defer,
    "approve": approve,
    "follow": follow,
    "model": model,
    "history": history,
    "start": start,
    "cancel": cancel,
    "power": power,
}

if __name__ == "__main__":
    STEPS[STEP](client())

"""What a scale set's document asks of a group, and whether it may.

`wanted` reads a whole document.  A change lays what was sent over what we show of the set, and
asks for whatever differs then: so clients that send everything back, those that leave most of it
out, and what only the native API can say live together.  What upkeep has no word for is kept beside
(`documents.py`); what it cannot do is refused, never passed over.
Source: sheet os-image §2.2 (preconditions), §2.3 (policy).
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from upkeep.api.arm import extensions
from upkeep.api.arm.documents import Document, field
from upkeep.api.arm.scopes import GALLERY, image_of_id
from upkeep.api.arm.values import binary, duration, flag, one_of, seconds, whole
from upkeep.api.problems import InputError, bad_request, invalid
from upkeep.core.hook_event import HookKind
from upkeep.core.model import RepairAction
from upkeep.core.policy import RollingPolicy

MODES = ("Automatic", "Manual", "Rolling")
# Of each placement group of Azure's uniform sets.  Source: sheet §10.
DOMAINS_DEFAULT = 5
# The one length that an OS image notification may have.  Source: sheet §2.6, §10.
NOTICE = timedelta(minutes=15)

_SIZE = re.compile(r"upkeep_([0-9]{1,4})cpu_([0-9]{1,8})mib", re.IGNORECASE)
# An image of the catalogue as a platform image: its name is the offer.
PUBLISHER, SKU = "upkeep", "default"

_POLICY_FIELDS: Mapping[str, str] = {
    "max_batch_percent": "maxBatchInstancePercent",
    "max_unhealthy_percent": "maxUnhealthyInstancePercent",
    "max_unhealthy_upgraded_percent": "maxUnhealthyUpgradedInstancePercent",
    "pause_between_batches_s": "pauseTimeBetweenBatches",
    "cross_zone": "enableCrossZoneUpgrade",
    "prioritize_unhealthy": "prioritizeUnhealthyInstances",
    "rollback_on_breach": "rollbackFailedInstancesOnPolicyBreach",
    "max_surge": "maxSurge",
}
# Azure's name of each hook; the policy's fields are `KIND_hook_wait` and `KIND_hook_approves`.
HOOKS: Mapping[str, HookKind] = {
    "UpgradeAutoOSScheduling": HookKind.START,
    "UpgradeAutoOSRollingBatchStarting": HookKind.BATCH,
}
# Azure publishes no default.  Source: sheet §2.6 #4; docs/adr/0016.
HOOK_WAIT = timedelta(minutes=30)

_PERCENTS = ("max_batch_percent", "max_unhealthy_percent", "max_unhealthy_upgraded_percent")


def wanted(document: Document, scripts: Mapping[str, bytes]) -> dict[str, Any]:
    """The fields of `GroupNew` and `GroupPatch` that the document speaks of.

    Args:
        scripts: the group's own, by name: an extension whose script was not sent again keeps it.

    Raises:
        InputError: a value is not allowed, or it asks for something that this server does not do.
    """
    upgrade = field(document, "properties", "upgradePolicy")
    profile = field(document, "properties", "virtualMachineProfile")
    model = extensions.of_model(profile)
    found: dict[str, Any] = {
        "zones": _zones(field(document, "zones")),
        "auto_upgrade": _is_automatic(document),
        "upgrade_mode": mode_of(document).casefold(),
        "policy": _policy(upgrade, profile) | _hooks(document),
        "probe": extensions.probe(model),
        "scripts": extensions.scripts(model, scripts),
        **_repairs(field(document, "properties", "automaticRepairsPolicy")),
    }
    if (image := _image(field(profile, "storageProfile", "imageReference"))) is not None:
        found["image"] = image
    if (capacity := field(document, "sku", "capacity")) is not None:
        found["capacity"] = whole(capacity, "sku.capacity")
    if (size := _SIZE.fullmatch(str(field(document, "sku", "name") or ""))) is not None:
        found |= {"cpus": int(size[1]), "memory_mib": int(size[2])}
    if (data := field(profile, "osProfile", "customData")) is not None:
        found["user_data"] = binary(data, "osProfile.customData")
    return found


def check(document: Document) -> None:
    """The preconditions of a set and of automatic upgrades.  Source: sheet §2.2, §9.4.

    Raises:
        InputError: one does not hold.
    """
    orchestration = field(document, "properties", "orchestrationMode")
    if orchestration is not None and str(orchestration).casefold() != "uniform":
        raise bad_request(
            "orchestrationMode: Uniform; sets whose instances are virtual machines of their own"
            " are not built"
        )
    profile = field(document, "properties", "virtualMachineProfile")
    mode = _mode(field(document, "properties", "upgradePolicy", "mode"))
    automatic = _is_automatic(document)
    probe = extensions.probe(extensions.of_model(profile))
    _check_health_source(profile, probe, automatic=automatic, mode=mode)
    if not automatic:
        return
    _check_guest_patching(profile)
    if _image(field(profile, "storageProfile", "imageReference")) is None:
        raise bad_request(
            "enableAutomaticOSUpgrade needs an image: storageProfile.imageReference.id, the id of a"
            " gallery's image without a version"
        )


def domains(document: Document) -> dict[str, int]:
    """Update and fault domains of a new set; they stay as they are."""
    count = field(document, "properties", "platformFaultDomainCount")
    faults = DOMAINS_DEFAULT if count is None else whole(count, "platformFaultDomainCount")
    return {"update_domains": DOMAINS_DEFAULT, "fault_domains": faults}


def is_size_of_ours(name: Any) -> bool:
    """Whether a size says what it is; any other name is kept as written, and says nothing."""
    return isinstance(name, str) and _SIZE.fullmatch(name) is not None


def azure_words(error: InputError) -> InputError:
    """The same refusal, naming the policy's fields as the client does."""
    detail = error.detail
    for ours, theirs in sorted(_POLICY_FIELDS.items(), key=lambda pair: -len(pair[0])):
        detail = re.sub(rf"\b{ours.removesuffix('_s')}(_s)?\b", theirs, detail)
    return InputError(error.kind, detail, retry_after_s=error.retry_after_s)


# --- Preconditions --------------------------------------------------------------------------------


def _check_health_source(profile: Any, probe: object, *, automatic: bool, mode: str | None) -> None:
    """Source: sheet §2.2 #2 and #6, §9.4."""
    balancer = field(profile, "networkProfile", "healthProbe")
    if balancer is not None and probe is not None:
        raise bad_request(
            "exactly one health source: networkProfile.healthProbe or the Application Health"
            " extension; take one of the two out"
        )
    if balancer is not None:
        raise bad_request(
            "networkProfile.healthProbe: this server has no load balancers to ask; use the"
            " Application Health extension, whose probe is also sent from outside"
        )
    if probe is None and (automatic or mode == "Rolling"):
        what = "enableAutomaticOSUpgrade" if automatic else "upgradePolicy.mode Rolling"
        raise bad_request(
            f"{what} needs a health source, or a bad version would go to every machine: add the"
            " extension ApplicationHealthLinux of Microsoft.ManagedServices to extensionProfile"
        )


def _check_guest_patching(profile: Any) -> None:
    """A machine whose disk is replaced is not patched as well.  Source: sheet §2.2 #3 and #4."""
    windows = field(profile, "osProfile", "windowsConfiguration")
    linux = field(profile, "osProfile", "linuxConfiguration")
    if flag(windows, "enableAutomaticUpdates"):
        raise bad_request(
            "windowsConfiguration.enableAutomaticUpdates must be false where"
            " enableAutomaticOSUpgrade is true"
        )
    for configuration in (windows, linux):
        mode = field(configuration, "patchSettings", "patchMode")
        if isinstance(mode, str) and mode.casefold() == "automaticbyplatform":
            raise bad_request(
                "patchSettings.patchMode AutomaticByPlatform and enableAutomaticOSUpgrade exclude"
                " each other: choose one"
            )


# --- Policy ---------------------------------------------------------------------------------------


def _is_automatic(document: Document) -> bool:
    upgrade = field(document, "properties", "upgradePolicy")
    return flag(upgrade, "automaticOSUpgradePolicy", "enableAutomaticOSUpgrade")


def mode_of(document: Document) -> str:
    """How the set says that a changed model reaches its instances."""
    return _mode(field(document, "properties", "upgradePolicy", "mode")) or "Manual"


def _mode(mode: Any) -> str | None:
    if mode is None:
        return None
    found = next((m for m in MODES if isinstance(mode, str) and m.casefold() == mode.casefold()),
                 None)  # fmt: skip
    if found is None:
        raise invalid(f"upgradePolicy.mode: one of {', '.join(MODES)}")
    return found


def _policy(upgrade: Any, profile: Any) -> dict[str, Any]:
    rolling = field(upgrade, "rollingUpgradePolicy")
    values: dict[str, Any] = {}
    for ours, theirs in _POLICY_FIELDS.items():
        value = field(rolling, theirs)
        if value is None:
            continue
        if ours in _PERCENTS:
            values[ours] = whole(value, theirs)
        elif ours == "pause_between_batches_s":
            values[ours] = seconds(value, theirs)
        else:
            values[ours] = flag(rolling, theirs)
    automatic = field(upgrade, "automaticOSUpgradePolicy")
    values["auto_rollback"] = not flag(automatic, "disableAutomaticRollback")
    values["governs_automatic"] = flag(automatic, "useRollingUpgradePolicy")
    values["needs_approval"] = flag(automatic, "osRollingUpgradeDeferral")
    notice = field(profile, "scheduledEventsProfile", "osImageNotificationProfile")
    if notice is not None:
        values["notice_s"] = _notice_s(notice)
    return values


def _repairs(policy: Any) -> dict[str, Any]:
    """Source: sheet §7; the default action is Replace."""
    if policy is None:
        return {}
    action = field(policy, "repairAction")
    known = {each.value.capitalize(): each for each in RepairAction}
    found = RepairAction.REPLACE
    if action is not None:
        found = one_of(known, action, "automaticRepairsPolicy.repairAction")
    values: dict[str, Any] = {"repair_action": found if flag(policy, "enabled") else None}
    grace = field(policy, "gracePeriod")
    if grace is not None:
        values["repair_grace_s"] = seconds(grace, "automaticRepairsPolicy.gracePeriod")
    return values


def _hooks(document: Document) -> dict[str, Any]:
    """A list that is there is the whole of it: who is not in it is asked no more."""
    given = field(document, "properties", "lifecycleHooksProfile", "lifecycleHooks")
    if given is None:
        return {}
    if not isinstance(given, list):
        raise invalid("lifecycleHooksProfile.lifecycleHooks: a list of objects with a type")
    values: dict[str, Any] = {f"{kind}_hook_wait_s": 0 for kind in HOOKS.values()}
    for hook in given:
        kind = one_of(HOOKS, field(hook, "type"), "lifecycleHooks.type")
        if values[f"{kind}_hook_wait_s"]:
            raise invalid(f"lifecycleHooks: {field(hook, 'type')} stands there twice")
        wait = field(hook, "waitDuration")
        wait_s = int(HOOK_WAIT.total_seconds()) if wait is None else seconds(wait, "waitDuration")
        if wait_s <= 0:
            raise invalid("lifecycleHooks.waitDuration: longer than nothing, as PT30M")
        values[f"{kind}_hook_wait_s"] = wait_s
        silence = field(hook, "defaultAction")
        values[f"{kind}_hook_approves"] = silence is None or one_of(
            {"Approve": True, "Reject": False}, silence, "lifecycleHooks.defaultAction"
        )
    return values


def hooks_of(policy: RollingPolicy) -> list[Document]:
    """The hooks of a policy, as Azure writes them."""
    return [
        {
            "type": name,
            "waitDuration": duration(wait),
            "defaultAction": "Approve" if getattr(policy, f"{kind}_hook_approves") else "Reject",
        }
        for name, kind in HOOKS.items()
        if (wait := getattr(policy, f"{kind}_hook_wait"))
    ]


def _notice_s(profile: Any) -> int:
    notice_s = int(NOTICE.total_seconds())
    length = field(profile, "notBeforeTimeout")
    if length is not None and seconds(length, "notBeforeTimeout") != notice_s:
        raise invalid("osImageNotificationProfile.notBeforeTimeout: PT15M, nothing else")
    return notice_s if flag(profile, "enable") else 0


# --- Image ----------------------------------------------------------------------------------------


def _image(reference: Any) -> str | None:
    """The name of the image that the set follows; None where the document names none.

    A set follows an image's latest version.  Source: sheet §2.2 #1.
    """
    place = field(reference, "id")
    if place is None:
        return _platform_image(reference)
    named = image_of_id(place)
    if named is None:
        raise bad_request(
            f"imageReference.id: …/providers/Microsoft.Compute/galleries/{GALLERY}/images/IMAGE;"
            " plain managed images have no versions to upgrade to"
        )
    name, version = named
    if version not in (None, "latest"):
        raise bad_request(
            f"imageReference.id names version {version[:40]!r}: a set follows an image's latest"
            " version; leave the version out, and exclude versions that it is not to get"
        )
    return name


def _platform_image(reference: Any) -> str | None:
    offer, version = field(reference, "offer"), field(reference, "version")
    publisher = field(reference, "publisher")
    if offer is None and publisher is None:
        return None
    if not isinstance(publisher, str) or publisher.casefold() != PUBLISHER:
        raise bad_request(
            f"imageReference.publisher: here it is {PUBLISHER!r}, and the offer is the image's name"
        )
    if version not in (None, "latest"):
        raise bad_request(
            "imageReference.version: latest; a set follows its image, and versions that it is not"
            " to get are excluded"
        )
    return str(offer).lower()


def _zones(zones: Any) -> list[str]:
    if zones is None:
        return []
    if not isinstance(zones, list) or not all(isinstance(zone, str) for zone in zones):
        raise invalid('zones: a list of texts, as ["1", "2"]')
    return zones

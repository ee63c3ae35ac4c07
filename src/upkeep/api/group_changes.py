"""What a person asks of a group, and the rows that come of it: create, change, remove.

Both edges use it, the native API (`groups.py`) and Azure's dialect (`arm/`): what may be asked,
what it needs and how it is refused is here once.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import Connection, Row

from upkeep.agent.health import SettingsError, parse_settings, settings_to_json
from upkeep.agent.seed import USER_DATA_BYTES_MAX
from upkeep.api.auth import Actor
from upkeep.api.policy import PolicyPatch, apply_policy
from upkeep.api.problems import InputError, ProblemKind, conflict, invalid
from upkeep.api.scripts import Script, to_column
from upkeep.api.services import Services
from upkeep.api.shapes import Body, Label, Name
from upkeep.core.health import HealthSource
from upkeep.core.model import GroupKind, MachineId, RepairAction, UpgradeMode, Verb
from upkeep.core.policy import RollingPolicy
from upkeep.core.snapshot import OperatorCall
from upkeep.core.systems.repairs import grace_errors
from upkeep.ports import AGENT_ONLY
from upkeep.store import calls, groups, images, rollouts, story
from upkeep.store.database import to_us
from upkeep.store.policies import policy_from_json, policy_to_json

# Source: Azure's limit for a scale set with custom images is 600, ours leaves room.
CAPACITY_MAX = 1_000
# `name-N` is a machine's name and must be one itself, with up to seven digits.
GROUP_NAME_LENGTH_MAX = 55
DOMAINS_MAX = 20

Capacity = Annotated[int, Meta(ge=0, le=CAPACITY_MAX)]
Zones = Annotated[tuple[Label, ...], Meta(max_length=16)]
Memory = Annotated[int, Meta(ge=64, le=1_048_576)]
Cpus = Annotated[int, Meta(ge=1, le=256)]
Domains = Annotated[int, Meta(ge=1, le=DOMAINS_MAX)]
RepairGrace = Annotated[int, Meta(ge=0, le=86_400)]
UserData = Annotated[bytes, Meta(max_length=USER_DATA_BYTES_MAX)]
Probe = dict[str, str | int | bool]


class GroupNew(Body):
    """`user_data` and scripts' `content` are base64; `probe` is as in docs/guest.md."""

    name: Name
    platform: Name
    kind: GroupKind | None = None
    scope: Label = "default"
    region: Label = "local"
    zones: Zones = ()
    update_domains: Domains = 1
    fault_domains: Domains = 1
    capacity: Capacity = 0
    image: str = ""
    probe: Probe | None = None
    health_source: HealthSource | None = None
    policy: PolicyPatch = msgspec.field(default_factory=PolicyPatch)
    auto_upgrade: bool = True
    upgrade_mode: UpgradeMode = UpgradeMode.MANUAL
    user_data: UserData = b""
    scripts: tuple[Script, ...] = ()
    memory_mib: Memory = 512
    cpus: Cpus = 1
    network: Label | None = None
    repair_action: RepairAction | None = None
    repair_grace_s: RepairGrace = 600


class GroupPatch(Body):
    """What is absent stays as it is; `probe: null` takes the health source away, and
    `repair_action: null` the repairs."""

    zones: Zones | UnsetType = UNSET
    capacity: Capacity | UnsetType = UNSET
    image: str | UnsetType = UNSET
    probe: Probe | UnsetType | None = UNSET
    health_source: HealthSource | UnsetType = UNSET
    policy: PolicyPatch | UnsetType = UNSET
    auto_upgrade: bool | UnsetType = UNSET
    upgrade_mode: UpgradeMode | UnsetType = UNSET
    user_data: UserData | UnsetType = UNSET
    scripts: tuple[Script, ...] | UnsetType = UNSET
    memory_mib: Memory | UnsetType = UNSET
    cpus: Cpus | UnsetType = UNSET
    repair_action: RepairAction | UnsetType | None = UNSET
    repair_grace_s: RepairGrace | UnsetType = UNSET


# Columns whose content is nobody's business in a log.
_SECRET = frozenset({"user_data", "scripts"})


def create(
    connection: Connection, services: Services, actor: Actor, data: GroupNew, *, now: datetime
) -> Row[Any]:
    """The row of a new group; a scale set's machines are then made by themselves.

    Raises:
        InputError: naming the field that is wrong and what to set; nothing is written.
    """
    if actor.scope and data.scope != actor.scope:
        raise InputError(
            ProblemKind.FORBIDDEN,
            f"the token is narrowed to scope {actor.scope!r}: set `scope` to that",
        )
    values = _new_values(services, data)
    _check_image(connection, data.image)
    other = groups.would_collide(connection, data.name)
    if other is not None:
        raise conflict(f"there is a machine {other!r}: the group would make one of that name")
    group_id, budget_id = services.ids.new("g"), services.ids.new("b")
    if not groups.create(
        connection, group_id=group_id, budget_id=budget_id, values=values, now=now
    ):
        raise conflict(f"there is a group {data.name!r} already; change it with PATCH")
    story.tell(connection, group_id, f"{actor.name} created the group", now=now)
    return _read(connection, group_id)


def change(
    connection: Connection, actor: Actor, row: Row[Any], data: GroupPatch, *, now: datetime
) -> tuple[Row[Any], Mapping[str, Any]]:
    """The row after the change, and what of it has changed, for the audit log.

    Plans that are being made from the old values are made again.

    Raises:
        InputError: it cannot be; nothing is written.
    """
    if row.delete_requested_at is not None:
        raise conflict(f"the group {row.name!r} is being deleted")
    values = _changed_values(connection, row, data)
    if "image_name" in values and rollouts.open_os_image(connection, [row.id]):
        raise conflict(
            f"a rollout of image {row.image_name!r} is running in the group: cancel it and wait"
            " for its end, then change the image"
        )
    if values:
        groups.change(connection, row.id, values, now=now)
        words = ", ".join(sorted(values))
        story.tell(connection, row.id, f"{actor.name} changed {words}", now=now)
    return _read(connection, row.id), {
        name: value for name, value in values.items() if name not in _SECRET
    }


def suspend_repairs(
    connection: Connection, actor: Actor, row: Row[Any], *, suspend: bool, now: datetime
) -> None:
    """Repair nobody more, or let repairs go on: what healed nobody before is forgotten.

    Raises:
        InputError: CONFLICT, the group has no repairs.
    """
    if not row.repair_action:
        raise conflict(f"the group {row.name!r} repairs nobody by itself: set its repair_action")
    values: dict[str, Any] = {"repairs_suspended_at": to_us(now)}
    if not suspend:
        values = {"repairs_suspended_at": None, "repairs_resumed_at": to_us(now)}
    groups.change(connection, row.id, values, now=now)
    word = "suspended" if suspend else "resumed"
    story.tell(connection, row.id, f"{actor.name} {word} repairs", now=now)


def remove(
    connection: Connection, services: Services, actor: Actor, row: Row[Any], *, now: datetime
) -> None:
    """Begin to remove a group with its machines: a running rollout is cancelled first.

    `groups.remove_if_empty` ends it.

    Raises:
        InputError: CONFLICT, machines are protected.
    """
    protected = groups.protected_machines(connection, row.id)
    if protected:
        raise conflict(
            f"protected: {', '.join(protected[:5])}"
            f"{' and more' if len(protected) > 5 else ''}; unprotect them first"
        )
    if row.delete_requested_at is None:
        groups.begin_removal(connection, row, now=now)
        story.tell(connection, row.id, f"{actor.name} deletes the group", now=now)
        _call_away(connection, services, row, actor, now)


def _read(connection: Connection, group_id: str) -> Row[Any]:
    row = groups.find(connection, group_id)
    assert row is not None
    return row


def _call_away(
    connection: Connection, services: Services, row: Row[Any], actor: Actor, now: datetime
) -> None:
    """Machines that upkeep did not make go by a call; a scale set's go with its capacity."""
    if row.kind == GroupKind.SCALE_SET:
        return
    here = groups.machine_ids(connection, row.id)
    if here:
        call = OperatorCall(
            id=services.ids.new("c"),
            verb=Verb.DELETE,
            machines=tuple(MachineId(machine) for machine in here),
            force=True,
            actor=actor.name,
        )
        calls.create(connection, row.id, call, now=now)


def _new_values(services: Services, data: GroupNew) -> dict[str, Any]:
    """The columns of a new group.

    Raises:
        InputError: naming the field that is wrong and what to set.
    """
    kind = _kind(services, data)
    inside = data.platform == AGENT_ONLY
    source = data.health_source or (HealthSource.INSIDE if inside else HealthSource.OUTSIDE)
    if kind is GroupKind.SCALE_SET and len(data.name) > GROUP_NAME_LENGTH_MAX:
        raise invalid(
            f"name: at most {GROUP_NAME_LENGTH_MAX} characters, since machines are called NAME-N"
        )
    _check_health_source(auto_upgrade=data.auto_upgrade, probe=data.probe)
    _check_upgrade_mode(data.upgrade_mode, data.platform, data.probe)
    _check_repairs(data.repair_action, data.repair_grace_s, kind, data.platform, data.probe)
    return {
        "name": data.name,
        "scope": data.scope,
        "region": data.region,
        "kind": kind,
        "capacity": data.capacity,
        "zones": _zones(data.zones),
        "update_domains": data.update_domains,
        "fault_domains": data.fault_domains,
        "image_name": data.image,
        "auto_upgrade": int(data.auto_upgrade),
        "upgrade_mode": data.upgrade_mode,
        "policy": policy_to_json(apply_policy(RollingPolicy(), data.policy)),
        "platform": data.platform,
        "probe": _probe(data.probe),
        "health_source": source,
        "user_data": data.user_data,
        "scripts": to_column(data.scripts),
        "memory_mib": data.memory_mib,
        "cpus": data.cpus,
        "network": data.network or "",
        "repair_action": data.repair_action or "",
        "repair_grace_s": data.repair_grace_s,
    }


def _kind(services: Services, data: GroupNew) -> GroupKind:
    if data.platform != AGENT_ONLY and data.platform not in services.platforms:
        known = ", ".join(sorted({*services.platforms, AGENT_ONLY}))
        raise invalid(f"platform: this server has {known}; there is no {data.platform!r}")
    if data.platform == AGENT_ONLY:
        if data.kind is GroupKind.SCALE_SET or data.capacity:
            raise invalid(
                "platform agent_only makes no machines: leave `kind` and `capacity` out, and add"
                " machines with POST /v1/machines"
            )
        return data.kind or GroupKind.LOOSE
    if data.kind not in (None, GroupKind.SCALE_SET):
        raise invalid(
            f"kind: on platform {data.platform} only scale_set; for machines that exist already"
            " use platform agent_only"
        )
    return GroupKind.SCALE_SET


def _changed_values(connection: Connection, row: Row[Any], data: GroupPatch) -> dict[str, Any]:
    """The columns that differ from what is there."""
    given: dict[str, Any] = {}
    for name in (
        "capacity",
        "health_source",
        "user_data",
        "memory_mib",
        "cpus",
        "upgrade_mode",
        "repair_grace_s",
    ):
        value = getattr(data, name)
        if value is not UNSET:
            given[name] = value
    if data.auto_upgrade is not UNSET:
        given["auto_upgrade"] = int(data.auto_upgrade)
    if data.zones is not UNSET:
        given["zones"] = _zones(data.zones)
    if data.probe is not UNSET:
        given["probe"] = _probe(data.probe)
    if data.scripts is not UNSET:
        given["scripts"] = to_column(data.scripts)
    if data.policy is not UNSET:
        given["policy"] = policy_to_json(apply_policy(policy_from_json(row.policy), data.policy))
    if data.image is not UNSET and data.image != row.image_name:
        _check_image(connection, data.image)
        # What baked was a version of the other image.
        given |= {"image_name": data.image, "baked": ""}
    if data.repair_action is not UNSET:
        given["repair_action"] = data.repair_action or ""
    if row.platform == AGENT_ONLY and given.get("capacity"):
        raise invalid("capacity: platform agent_only makes no machines; POST /v1/machines adds one")
    _check_health_source(
        auto_upgrade=bool(given.get("auto_upgrade", row.auto_upgrade)),
        probe=msgspec.json.decode(given.get("probe", row.probe)),
    )
    _check_upgrade_mode(
        UpgradeMode(given.get("upgrade_mode", row.upgrade_mode)),
        row.platform,
        msgspec.json.decode(given.get("probe", row.probe)),
    )
    action = given.get("repair_action", row.repair_action)
    _check_repairs(
        RepairAction(action) if action else None,
        given.get("repair_grace_s", row.repair_grace_s),
        GroupKind(row.kind),
        row.platform,
        msgspec.json.decode(given.get("probe", row.probe)),
    )
    return {name: value for name, value in given.items() if getattr(row, name) != value}


def _check_image(connection: Connection, name: str) -> None:
    if name and images.find(connection, name) is None:
        raise invalid(f"image: there is no image {name!r}; POST /v1/images makes one")


def _check_health_source(*, auto_upgrade: bool, probe: object) -> None:
    """Source: sheet os-image: automatic upgrades need application health."""
    if auto_upgrade and not probe:
        raise invalid(
            "auto_upgrade needs a health source, or a bad version would go to every machine: set"
            ' `probe`, e.g. {"protocol": "http", "port": 8080, "path": "/health"}, or set'
            " auto_upgrade to false"
        )


def _check_upgrade_mode(mode: UpgradeMode, platform: str, probe: object) -> None:
    """Source: sheet os-image §2.2 (rolling needs application health)."""
    if mode is not UpgradeMode.MANUAL and platform == AGENT_ONLY:
        raise invalid("upgrade_mode: on platform agent_only only manual; it makes no disks")
    if mode is UpgradeMode.ROLLING and not probe:
        raise invalid(
            "upgrade_mode rolling needs a health source: set `probe`, or set upgrade_mode to manual"
        )


def _check_repairs(
    action: RepairAction | None, grace_s: int, kind: GroupKind, platform: str, probe: object
) -> None:
    """Source: sheet os-image §7."""
    if errors := grace_errors(timedelta(seconds=grace_s)):
        raise invalid(f"repair_grace_s: {errors[0]}")
    if action is None:
        return
    if not probe:
        raise invalid("repair_action needs a health source: set `probe`, or leave repairs out")
    if action is not RepairAction.RESTART and platform == AGENT_ONLY:
        raise invalid("repair_action: on platform agent_only only restart; it makes no disks")
    if action is RepairAction.REPLACE and kind is not GroupKind.SCALE_SET:
        raise invalid("repair_action: only a scale set makes its machines again")


def _zones(zones: Sequence[str]) -> str:
    if len(set(zones)) != len(zones):
        raise invalid("zones: each only once")
    return msgspec.json.encode(list(zones)).decode()


def _probe(probe: Probe | None) -> str:
    if not probe:
        return "{}"
    try:
        settings = parse_settings(probe)
    except SettingsError as error:
        raise invalid(f"probe.{error.field}: {error.detail}") from None
    return msgspec.json.encode(settings_to_json(settings)).decode()

"""Groups: create, change, pause, remove; their story."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK, HTTP_202_ACCEPTED
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import Connection, Row

from upkeep.agent.health import SettingsError, parse_settings, settings_to_json
from upkeep.agent.seed import USER_DATA_BYTES_MAX
from upkeep.api.auth import OPERATE, READ, Actor
from upkeep.api.policy import PolicyPatch, PolicyView, apply_policy, policy_view
from upkeep.api.problems import InputError, ProblemKind, conflict, invalid
from upkeep.api.scripts import Script, to_column
from upkeep.api.services import Services
from upkeep.api.shapes import (
    After,
    AnyRequest,
    Body,
    Label,
    Limit,
    Name,
    Page,
    View,
    find_group,
    note,
    number_cursor,
    page_of,
    text_cursor,
)
from upkeep.core.health import HealthSource
from upkeep.core.model import GroupKind, Health, Lifecycle, MachineId, RollingPolicy, Verb
from upkeep.core.snapshot import OperatorCall
from upkeep.ports import AGENT_ONLY
from upkeep.store import calls, groups, images, rollouts, story
from upkeep.store.database import from_us
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
    user_data: UserData = b""
    scripts: tuple[Script, ...] = ()
    memory_mib: Memory = 512
    cpus: Cpus = 1
    network: Label | None = None


class GroupPatch(Body):
    """What is absent stays as it is; `probe: null` takes the health source away."""

    zones: Zones | UnsetType = UNSET
    capacity: Capacity | UnsetType = UNSET
    image: str | UnsetType = UNSET
    probe: Probe | UnsetType | None = UNSET
    health_source: HealthSource | UnsetType = UNSET
    policy: PolicyPatch | UnsetType = UNSET
    auto_upgrade: bool | UnsetType = UNSET
    user_data: UserData | UnsetType = UNSET
    scripts: tuple[Script, ...] | UnsetType = UNSET
    memory_mib: Memory | UnsetType = UNSET
    cpus: Cpus | UnsetType = UNSET


class ScriptView(View):
    name: str
    provision_after: list[str]


class MachineCounts(View):
    """Machines that are there; the four healths count those that are present."""

    total: int
    healthy: int
    unhealthy: int
    unknown: int
    initializing: int
    creating: int
    stopped: int
    deleting: int


class GroupView(View):
    """`baked`: the last version that completed a rollout here.  `rollout`: the running one."""

    id: str
    name: str
    scope: str
    kind: GroupKind
    platform: str
    region: str
    zones: list[str]
    update_domains: int
    fault_domains: int
    capacity: int
    image: str
    baked: str
    probe: dict[str, Any] | None
    health_source: str
    policy: PolicyView
    auto_upgrade: bool
    paused: bool
    deleting: bool
    user_data_bytes: int
    scripts: list[ScriptView]
    memory_mib: int
    cpus: int
    network: str
    machines: MachineCounts
    versions: dict[str, int]
    rollout: str | None
    created_at: datetime


class StoryLine(View):
    at: datetime
    line: str


@get("/v1/groups", opt=READ, sync_to_thread=True)
def list_groups(
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    limit: Limit = 100,
    after: After = None,
) -> Page[GroupView]:
    """List groups, by name."""
    with services.database.read() as connection:
        rows, more = groups.read_list(
            connection, scope=actor.scope, after=text_cursor(after), limit=limit
        )
        views = {view.id: view for view in group_views(connection, rows)}
    return page_of(rows, more, lambda row: views[row.id], lambda row: row.name)


@post("/v1/groups", opt=OPERATE, sync_to_thread=True)
def create_group(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    data: JSONBody[GroupNew],
) -> GroupView:
    """Create a group; a scale set's machines are then made by themselves."""
    note(request, {"capacity": data.capacity, "image": data.image, "platform": data.platform})
    if actor.scope and data.scope != actor.scope:
        raise InputError(
            ProblemKind.FORBIDDEN,
            f"the token is narrowed to scope {actor.scope!r}: set `scope` to that",
        )
    values = _new_values(services, data)
    now = services.clock.now()
    group_id = services.ids.new("g")
    with services.database.write() as connection:
        _check_image(connection, data.image)
        other = groups.would_collide(connection, data.name)
        if other is not None:
            raise conflict(f"there is a machine {other!r}: the group would make one of that name")
        budget_id = services.ids.new("b")
        made = groups.create(
            connection, group_id=group_id, budget_id=budget_id, values=values, now=now
        )
        if not made:
            raise conflict(f"there is a group {data.name!r} already; change it with PATCH")
        story.tell(connection, group_id, f"{actor.name} created the group", now=now)
        view = _one(connection, group_id)
    services.announce(group_id)
    return view


@get("/v1/groups/{group:str}", opt=READ, sync_to_thread=True)
def show_group(
    services: NamedDependency[Services], actor: NamedDependency[Actor], group: FromPath[str]
) -> GroupView:
    """Show one group."""
    with services.database.read() as connection:
        return group_views(connection, [find_group(connection, group, actor)])[0]


@patch("/v1/groups/{group:str}", opt=OPERATE, sync_to_thread=True)
def change_group(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    group: FromPath[str],
    data: JSONBody[GroupPatch],
) -> GroupView:
    """Change a group; plans that are being made from the old values are made again."""
    now = services.clock.now()
    with services.database.write() as connection:
        row = find_group(connection, group, actor)
        if row.delete_requested_at is not None:
            raise conflict(f"the group {row.name!r} is being deleted")
        values = _changed_values(connection, row, data)
        note(request, {key: value for key, value in values.items() if key not in _SECRET})
        if values:
            groups.change(connection, row.id, values, now=now)
            words = ", ".join(sorted(values))
            story.tell(connection, row.id, f"{actor.name} changed {words}", now=now)
        view = _one(connection, row.id)
    services.announce(row.id)
    return view


@delete("/v1/groups/{group:str}", opt=OPERATE, status_code=HTTP_202_ACCEPTED, sync_to_thread=True)
def remove_group(
    services: NamedDependency[Services], actor: NamedDependency[Actor], group: FromPath[str]
) -> GroupView:
    """Remove a group with its machines: a running rollout is cancelled first."""
    now = services.clock.now()
    with services.database.write() as connection:
        row = find_group(connection, group, actor)
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
        view = _one(connection, row.id)
        groups.remove_if_empty(connection, row.id, now=now)
    services.announce(row.id)
    return view


@post("/v1/groups/{group:str}/pause", opt=OPERATE, status_code=HTTP_200_OK, sync_to_thread=True)
def pause_group(
    services: NamedDependency[Services], actor: NamedDependency[Actor], group: FromPath[str]
) -> GroupView:
    """Start nothing in the group; what is under way is finished."""
    return _set_paused(services, actor, group, paused=True)


@post("/v1/groups/{group:str}/resume", opt=OPERATE, status_code=HTTP_200_OK, sync_to_thread=True)
def resume_group(
    services: NamedDependency[Services], actor: NamedDependency[Actor], group: FromPath[str]
) -> GroupView:
    """Let a paused group go on."""
    return _set_paused(services, actor, group, paused=False)


@get("/v1/groups/{group:str}/story", opt=READ, sync_to_thread=True)
def group_story(
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    group: FromPath[str],
    limit: Limit = 100,
    after: After = None,
) -> Page[StoryLine]:
    """Tell what was decided in the group, newest first."""
    with services.database.read() as connection:
        row = find_group(connection, group, actor)
        lines, more = story.read_list(connection, row.id, after=number_cursor(after), limit=limit)
    return page_of(
        lines,
        more,
        lambda line: StoryLine(at=from_us(line.at), line=line.line),
        lambda line: line.id,
    )


ROUTES = [
    list_groups,
    create_group,
    show_group,
    change_group,
    remove_group,
    pause_group,
    resume_group,
    group_story,
]

# Columns whose content is nobody's business in a log.
_SECRET = frozenset({"user_data", "scripts"})


def _one(connection: Connection, group_id: str) -> GroupView:
    row = groups.find(connection, group_id)
    assert row is not None
    return group_views(connection, [row])[0]


def _set_paused(services: Services, actor: Actor, group: str, *, paused: bool) -> GroupView:
    now = services.clock.now()
    with services.database.write() as connection:
        row = find_group(connection, group, actor)
        groups.change(connection, row.id, {"paused": int(paused)}, now=now)
        word = "paused" if paused else "resumed"
        story.tell(connection, row.id, f"{actor.name} {word} the group", now=now)
        view = _one(connection, row.id)
    services.announce(row.id)
    return view


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
        "policy": policy_to_json(apply_policy(RollingPolicy(), data.policy)),
        "platform": data.platform,
        "probe": _probe(data.probe),
        "health_source": source,
        "user_data": data.user_data,
        "scripts": to_column(data.scripts),
        "memory_mib": data.memory_mib,
        "cpus": data.cpus,
        "network": data.network or "",
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
    for name in ("capacity", "health_source", "user_data", "memory_mib", "cpus"):
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
    if row.platform == AGENT_ONLY and given.get("capacity"):
        raise invalid("capacity: platform agent_only makes no machines; POST /v1/machines adds one")
    _check_health_source(
        auto_upgrade=bool(given.get("auto_upgrade", row.auto_upgrade)),
        probe=msgspec.json.decode(given.get("probe", row.probe)),
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


def group_views(connection: Connection, rows: Sequence[Row[Any]]) -> list[GroupView]:
    """The groups with what is counted of their machines, in two more queries."""
    ids = [row.id for row in rows]
    counted: dict[str, list[Row[Any]]] = {group: [] for group in ids}
    for count in groups.counts(connection, ids):
        counted[count.group_id].append(count)
    running = rollouts.open_os_image(connection, ids)
    return [_view(row, counted[row.id], running.get(row.id)) for row in rows]


def _view(row: Row[Any], counted: Sequence[Row[Any]], rollout: str | None) -> GroupView:
    versions: dict[str, int] = {}
    for count in counted:
        if count.image:
            versions[count.image] = versions.get(count.image, 0) + count.machines
    scripts = msgspec.json.decode(row.scripts)
    return GroupView(
        id=row.id,
        name=row.name,
        scope=row.scope,
        kind=GroupKind(row.kind),
        platform=row.platform,
        region=row.region,
        zones=msgspec.json.decode(row.zones),
        update_domains=row.update_domains,
        fault_domains=row.fault_domains,
        capacity=row.capacity,
        image=row.image_name,
        baked=row.baked,
        probe=msgspec.json.decode(row.probe) or None,
        health_source=row.health_source,
        policy=policy_view(policy_from_json(row.policy)),
        auto_upgrade=bool(row.auto_upgrade),
        paused=bool(row.paused),
        deleting=row.delete_requested_at is not None,
        user_data_bytes=len(row.user_data),
        scripts=[ScriptView(name=s["name"], provision_after=s["provision_after"]) for s in scripts],
        memory_mib=row.memory_mib,
        cpus=row.cpus,
        network=row.network,
        machines=_counts(counted),
        versions=dict(sorted(versions.items())),
        rollout=rollout,
        created_at=from_us(row.created_at),
    )


def _counts(counted: Sequence[Row[Any]]) -> MachineCounts:
    def total(**wanted: str) -> int:
        return sum(
            row.machines
            for row in counted
            if all(getattr(row, name) == value for name, value in wanted.items())
        )

    present = Lifecycle.PRESENT
    return MachineCounts(
        total=total(),
        healthy=total(lifecycle=present, health=Health.HEALTHY),
        unhealthy=total(lifecycle=present, health=Health.UNHEALTHY),
        unknown=total(lifecycle=present, health=Health.UNKNOWN),
        initializing=total(lifecycle=present, health=Health.INITIALIZING),
        creating=total(lifecycle=Lifecycle.CREATING),
        stopped=total(lifecycle=Lifecycle.STOPPED),
        deleting=total(lifecycle=Lifecycle.DELETING),
    )

"""Groups: create, change, pause, remove; their story."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from litestar import delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK, HTTP_202_ACCEPTED
from sqlalchemy import Connection, Row

from upkeep.api import group_changes
from upkeep.api.auth import OPERATE, READ, Actor
from upkeep.api.group_changes import GroupNew, GroupPatch
from upkeep.api.policy import PolicyView, policy_view
from upkeep.api.services import Services
from upkeep.api.shapes import (
    After,
    AnyRequest,
    Limit,
    Page,
    View,
    find_group,
    note,
    number_cursor,
    page_of,
    text_cursor,
)
from upkeep.core.model import GroupKind, Health, Lifecycle, RepairAction, UpgradeMode
from upkeep.store import groups, rollouts, story
from upkeep.store.database import from_us, from_us_or_none
from upkeep.store.policies import policy_from_json


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
    model: str
    baked_model: str
    upgrade_mode: UpgradeMode
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
    repair_action: RepairAction | None
    repair_grace_s: int
    repairs_suspended_at: datetime | None
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
    now = services.clock.now()
    with services.database.write() as connection:
        row = group_changes.create(connection, services, actor, data, now=now)
        view = group_views(connection, [row])[0]
    services.announce(row.id)
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
        row, changed = group_changes.change(connection, actor, row, data, now=now)
        note(request, changed)
        view = group_views(connection, [row])[0]
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
        group_changes.remove(connection, services, actor, row, now=now)
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


@post("/v1/groups/{group:str}/repairs/suspend", opt=OPERATE, status_code=HTTP_200_OK,
      sync_to_thread=True)  # fmt: skip
def suspend_repairs(
    services: NamedDependency[Services], actor: NamedDependency[Actor], group: FromPath[str]
) -> GroupView:
    """Repair nobody more by itself; what is under way is finished."""
    return _suspend(services, actor, group, suspend=True)


@post("/v1/groups/{group:str}/repairs/resume", opt=OPERATE, status_code=HTTP_200_OK,
      sync_to_thread=True)  # fmt: skip
def resume_repairs(
    services: NamedDependency[Services], actor: NamedDependency[Actor], group: FromPath[str]
) -> GroupView:
    """Let repairs go on, also after those that healed nobody."""
    return _suspend(services, actor, group, suspend=False)


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
    suspend_repairs,
    resume_repairs,
    group_story,
]


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


def _suspend(services: Services, actor: Actor, group: str, *, suspend: bool) -> GroupView:
    now = services.clock.now()
    with services.database.write() as connection:
        row = find_group(connection, group, actor)
        group_changes.suspend_repairs(connection, actor, row, suspend=suspend, now=now)
        view = _one(connection, row.id)
    services.announce(row.id)
    return view


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
        model=row.model,
        baked_model=row.baked_model,
        upgrade_mode=UpgradeMode(row.upgrade_mode),
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
        repair_action=RepairAction(row.repair_action) if row.repair_action else None,
        repair_grace_s=row.repair_grace_s,
        repairs_suspended_at=from_us_or_none(row.repairs_suspended_at),
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

"""Rollouts: see them, start one by hand, pause, resume, cancel."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK, HTTP_202_ACCEPTED
from msgspec import Meta
from sqlalchemy import Connection, Row

from upkeep.api.auth import OPERATE, READ, Actor
from upkeep.api.calls import ask
from upkeep.api.policy import PolicyView, policy_view
from upkeep.api.problems import InputError, conflict, invalid, not_found
from upkeep.api.services import Services
from upkeep.api.shapes import (
    After,
    AnyRequest,
    Body,
    Filter,
    ForceFlag,
    Limit,
    Name,
    Page,
    View,
    find_group,
    find_machine,
    note,
    page_of,
)
from upkeep.core.model import RolloutState, Verb
from upkeep.core.snapshot import GROUPS_MODEL
from upkeep.core.version import is_version
from upkeep.store import rollouts, story
from upkeep.store.database import from_us, from_us_or_none
from upkeep.store.policies import policy_from_json

MACHINES_MAX = 1_000


class RolloutNew(Body):
    """`version` absent means the latest, or where no machine is older, the group's model; `model`
    means that and no version.  `machines` absent means every machine that is behind."""

    version: str = ""
    model: bool = False
    machines: Annotated[tuple[Name, ...], Meta(max_length=MACHINES_MAX)] = ()
    force: ForceFlag = False


class Approval(Body):
    """`machines` absent means every machine that waits in the rollout."""

    machines: Annotated[tuple[Name, ...], Meta(max_length=MACHINES_MAX)] = ()


class RolloutView(View):
    """`counters`: tasks by state."""

    id: str
    group: str
    system: str
    verb: str
    target: str
    state: RolloutState
    started_by: str
    started_at: datetime
    ended_at: datetime | None
    size: int
    batch: int
    begun_at: datetime | None
    batch_closed_at: datetime | None
    paused: bool
    cancel_requested: bool
    promoted: bool
    force: bool
    guilty: bool
    code: str
    evidence: str
    policy: PolicyView
    counters: dict[str, int]


class TaskView(View):
    """`machine` is its name; `batch` is 0 while it was not taken; `approved` says something only
    where the rollout's policy has `needs_approval`."""

    machine: str
    machine_id: str
    zone: str
    state: str
    since: datetime
    batch: int
    not_before: datetime | None
    previous: str
    repair: bool
    attempt: int
    failure: str
    healed: bool
    approved: bool
    detail: str


class RolloutDetail(RolloutView):
    tasks: list[TaskView]


@get("/v1/rollouts", opt=READ, sync_to_thread=True)
def list_rollouts(
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    group: Filter = "",
    status: Filter = "",
    limit: Limit = 100,
    after: After = None,
) -> Page[RolloutView]:
    """List rollouts, newest first."""
    if status and status not in set(RolloutState):
        raise invalid(f"status: one of {', '.join(RolloutState)}")
    with services.database.read() as connection:
        group_id = find_group(connection, group, actor).id if group else ""
        rows, more = rollouts.read_list(
            connection,
            scope=actor.scope,
            group_id=group_id,
            state=status,
            after=_parse_cursor(after),
            limit=limit,
        )
        views = {view.id: view for view in rollout_views(connection, rows)}
    return page_of(rows, more, lambda row: views[row.id], lambda row: f"{row.started_at}.{row.id}")


@get("/v1/groups/{group:str}/rollouts", opt=READ, sync_to_thread=True)
def group_rollouts(
    services: NamedDependency[Services], actor: NamedDependency[Actor], group: FromPath[str]
) -> Page[RolloutView]:
    """The open ones and, of each system, the last five that ended within two months."""
    now = services.clock.peek()
    with services.database.read() as connection:
        row = find_group(connection, group, actor)
        rows = rollouts.history(connection, row.id, now=now)
        return Page(items=rollout_views(connection, rows), next=None)


@post("/v1/groups/{group:str}/rollouts", opt=OPERATE, status_code=HTTP_202_ACCEPTED)
async def start_rollout(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    group: FromPath[str],
    data: JSONBody[RolloutNew],
) -> RolloutDetail:
    """Start an OS image rollout now, also again after one was halted."""
    note(request, data)
    if data.version and not is_version(data.version):
        raise invalid(f"version: {data.version!r} is none; write two to four numbers, as 1.0.2")
    if data.version and data.model:
        raise invalid("model: a rollout brings a version or the model; set one of them")
    group_id, machines = await asyncio.to_thread(_resolve, services, actor, group, data.machines)
    rollout = await ask(
        services,
        actor,
        group_id,
        Verb.REPLACE_OS_DISK,
        machines=machines,
        target=GROUPS_MODEL if data.model else data.version,
        force=data.force,
    )
    return await asyncio.to_thread(read_detail, services, actor, rollout)


@get("/v1/rollouts/{rollout:str}", opt=READ, sync_to_thread=True)
def show_rollout(
    services: NamedDependency[Services], actor: NamedDependency[Actor], rollout: FromPath[str]
) -> RolloutDetail:
    """One rollout with its machines, batch by batch."""
    return read_detail(services, actor, rollout)


@post("/v1/rollouts/{rollout:str}/cancel", opt=OPERATE, status_code=HTTP_200_OK,
      sync_to_thread=True)  # fmt: skip
def cancel_rollout(
    services: NamedDependency[Services], actor: NamedDependency[Actor], rollout: FromPath[str]
) -> RolloutDetail:
    """End it: the open batch is finished, no other starts."""
    return _steer(services, actor, rollout, "cancelled", cancel=True)


@post("/v1/rollouts/{rollout:str}/pause", opt=OPERATE, status_code=HTTP_200_OK,
      sync_to_thread=True)  # fmt: skip
def pause_rollout(
    services: NamedDependency[Services], actor: NamedDependency[Actor], rollout: FromPath[str]
) -> RolloutDetail:
    """Start nothing more until it is resumed."""
    return _steer(services, actor, rollout, "paused", paused=True)


@post("/v1/rollouts/{rollout:str}/resume", opt=OPERATE, status_code=HTTP_200_OK,
      sync_to_thread=True)  # fmt: skip
def resume_rollout(
    services: NamedDependency[Services], actor: NamedDependency[Actor], rollout: FromPath[str]
) -> RolloutDetail:
    """Let a paused rollout go on."""
    return _steer(services, actor, rollout, "resumed", paused=False)


@post("/v1/rollouts/{rollout:str}/promote", opt=OPERATE, status_code=HTTP_200_OK,
      sync_to_thread=True)  # fmt: skip
def promote_rollout(
    services: NamedDependency[Services], actor: NamedDependency[Actor], rollout: FromPath[str]
) -> RolloutDetail:
    """Let it go on after its canary."""
    return _steer(services, actor, rollout, "promoted", promote=True)


@post("/v1/rollouts/{rollout:str}/approve", opt=OPERATE, status_code=HTTP_200_OK,
      sync_to_thread=True)  # fmt: skip
def approve_rollout(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    rollout: FromPath[str],
    data: JSONBody[Approval],
) -> RolloutDetail:
    """Say that it may take machines, where its policy asks for that."""
    note(request, data)
    now = services.clock.now()
    with services.database.write() as connection:
        row = _find(connection, rollout, actor)
        if row.ended_at is not None:
            raise _has_ended(row)
        named = [_machine_of(connection, name, actor, row.group_id) for name in data.machines]
        approve(connection, row, named or None, actor, now=now)
    services.store.announce(row.group_id)
    return read_detail(services, actor, rollout)


ROUTES = [
    list_rollouts,
    group_rollouts,
    start_rollout,
    show_rollout,
    cancel_rollout,
    pause_rollout,
    resume_rollout,
    promote_rollout,
    approve_rollout,
]


def read_detail(services: Services, actor: Actor, rollout: str) -> RolloutDetail:
    with services.database.read() as connection:
        row = _find(connection, rollout, actor)
        view = rollout_views(connection, [row])[0]
        tasks = [_task_view(task) for task in rollouts.tasks(connection, row.id)]
    fields = {name: getattr(view, name) for name in RolloutView.__struct_fields__}
    return RolloutDetail(**fields, tasks=tasks)


def _find(connection: Connection, rollout: str, actor: Actor) -> Row[Any]:
    row = rollouts.find(connection, rollout, scope=actor.scope) if "\x00" not in rollout else None
    if row is None:
        raise not_found(f"there is no rollout {rollout!r}; list them with GET /v1/rollouts")
    return row


def _resolve(
    services: Services, actor: Actor, group: str, names: Sequence[str]
) -> tuple[str, list[str]]:
    with services.database.read() as connection:
        row = find_group(connection, group, actor)
        return row.id, [_machine_of(connection, name, actor, row.id) for name in names]


def _machine_of(connection: Connection, name: str, actor: Actor, group_id: str) -> str:
    machine = find_machine(connection, name, actor)
    if machine.group_id != group_id:
        raise invalid(f"machines: {machine.name} is in group {machine.group_name}")
    return str(machine.id)


def approve(
    connection: Connection,
    rollout: Row[Any],
    machines: Sequence[str] | None,
    actor: Actor,
    *,
    now: datetime,
) -> None:
    """Approve machines by their ids, all that wait with None; who waits no more is left alone.

    Raises:
        InputError: this rollout asks for nobody's approval.
    """
    if not policy_from_json(rollout.policy).needs_approval:
        raise conflict(f"{rollout.id} needs no approval: it takes machines as its policy allows")
    count = rollouts.approve(connection, rollout, machines, now=now)
    text = f"{actor.name} approves {rollout.id} on {count} machine{'s' * (count != 1)}"
    story.tell(connection, rollout.group_id, text, now=now)


def _has_ended(row: Row[Any]) -> InputError:
    return conflict(f"{row.id} has ended ({row.state}); nothing can be changed any more")


def _steer(
    services: Services,
    actor: Actor,
    rollout: str,
    word: str,
    *,
    paused: bool | None = None,
    cancel: bool = False,
    promote: bool = False,
) -> RolloutDetail:
    now = services.clock.now()
    with services.database.write() as connection:
        row = _find(connection, rollout, actor)
        if promote and not policy_from_json(row.policy).canary_percent:
            raise conflict(f"{row.id} has no canary: it goes on by itself")
        if not rollouts.change(
            connection, row, paused=paused, cancel=cancel, promote=promote, now=now
        ):
            raise _has_ended(row)
        story.tell(connection, row.group_id, f"{actor.name} {word} {row.id}", now=now)
    services.store.announce(row.group_id)
    return read_detail(services, actor, rollout)


def rollout_views(connection: Connection, rows: Sequence[Row[Any]]) -> list[RolloutView]:
    counters = rollouts.task_counts(connection, [row.id for row in rows])
    return [
        RolloutView(
            id=row.id,
            group=row.group_name,
            system=row.system,
            verb=row.verb,
            target=row.target,
            state=RolloutState(row.state),
            started_by=row.started_by,
            started_at=from_us(row.started_at),
            ended_at=from_us_or_none(row.ended_at),
            size=row.size,
            batch=row.batch,
            begun_at=from_us_or_none(row.begun_at),
            batch_closed_at=from_us_or_none(row.batch_closed_at),
            paused=bool(row.paused),
            cancel_requested=bool(row.cancel_requested),
            promoted=bool(row.promoted),
            force=bool(row.force),
            guilty=bool(row.guilty),
            code=row.code,
            evidence=row.evidence,
            policy=policy_view(policy_from_json(row.policy)),
            counters=counters[row.id],
        )
        for row in rows
    ]


def _task_view(row: Row[Any]) -> TaskView:
    return TaskView(
        machine=row.machine_name or row.machine_id,
        machine_id=row.machine_id,
        zone=row.zone or "",
        state=row.state,
        since=from_us(row.state_since),
        batch=row.batch,
        not_before=from_us_or_none(row.not_before),
        previous=row.previous,
        repair=bool(row.repair),
        attempt=row.attempt,
        failure=row.failure,
        healed=bool(row.healed),
        approved=bool(row.approved),
        detail=row.detail,
    )


def _parse_cursor(after: str | None) -> tuple[int, str] | None:
    if not after:
        return None
    started_at, dot, rollout = after.partition(".")
    if not dot or not started_at.isdigit() or len(started_at) > 18 or not rollout.isprintable():
        raise invalid("after: take it from `next` of the page before")
    return int(started_at), rollout

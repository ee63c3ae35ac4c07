"""Machines: see them, explain them, ask for work on one, add one that exists already."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from litestar import get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_201_CREATED, HTTP_202_ACCEPTED
from sqlalchemy import Connection, Row

from upkeep.api.auth import OPERATE, READ, Actor
from upkeep.api.calls import ask
from upkeep.api.holds import HoldView, hold_view
from upkeep.api.install import pasted_line
from upkeep.api.problems import conflict, invalid
from upkeep.api.rollouts import RolloutDetail, read_detail
from upkeep.api.services import Services
from upkeep.api.shapes import (
    After,
    AnyRequest,
    Body,
    Filter,
    ForceFlag,
    Label,
    Limit,
    Name,
    Page,
    View,
    find_group,
    find_machine,
    note,
    page_of,
    text_cursor,
)
from upkeep.core.model import Health, Lifecycle, Verb
from upkeep.platforms.agent_only import refusal
from upkeep.ports import AGENT_ONLY
from upkeep.store import agents, groups, holds, machines, story
from upkeep.store.database import from_us, from_us_or_none

STATES = (*Lifecycle, *Health)


class AgentView(View):
    """What the agent says; `conflict` names another machine that uses its identity."""

    version: str
    boot_id: str
    os: str
    image_name: str
    image_version: str
    first_boot: str
    first_boot_detail: str
    reboot_required: str
    busy: str
    conflict: str
    enrolled_at: datetime | None
    seen_at: datetime | None


class MachineView(View):
    """`image`: the version on its OS disk; `model`: what that was told at its first boot.  `down`:
    budgets count it as not available."""

    id: str
    name: str
    group: str
    platform: str
    zone: str
    update_domain: int
    fault_domain: int
    host: str
    lifecycle: Lifecycle
    image: str
    kept: str
    model: str
    health: Health
    health_since: datetime
    health_detail: str
    down: bool
    in_work: bool
    protected: bool
    scale_in_protected: bool
    opted_out: bool
    phase: int | None
    skip: bool
    address: str
    uuid: str
    created_at: datetime
    worked_at: datetime | None
    agent: AgentView | None


class MachinePatch(Body):
    """`protected`: no rollout takes it and no scale-in removes it; `scale_in_protected`: only the
    second; `opted_out`: only the first."""

    protected: bool | None = None
    scale_in_protected: bool | None = None
    opted_out: bool | None = None


class MachineNew(Body):
    """A machine that exists already."""

    name: Name
    group: Name
    zone: Label | None = None


class Ask(Body):
    force: ForceFlag = False


class EnrolmentLine(View):
    """`line` is to be pasted on the machine, as root, before `expires_at`; it works once."""

    name: str
    group: str
    line: str
    token: str
    expires_at: datetime


class ActionView(View):
    key: str
    verb: str
    version: str
    state: str
    rollout: str
    attempts: int
    detail: str
    created_at: datetime
    started_at: datetime | None


class TaskInHand(View):
    rollout: str
    system: str
    verb: str
    target: str
    state: str
    since: datetime
    detail: str


class Explanation(View):
    """What is being done to a machine, or why nothing is and what would change that."""

    machine: MachineView
    action: ActionView | None
    task: TaskInHand | None
    holds: list[HoldView]


@get("/v1/machines", opt=READ, sync_to_thread=True)
def list_machines(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    group: Filter = "",
    limit: Limit = 100,
    after: After = None,
) -> Page[MachineView]:
    """List machines, by name; `state` is a lifecycle or a health."""
    state = request.query_params.get("state", "")
    if state and state not in STATES:
        raise invalid(f"state: one of {', '.join(STATES)}")
    with services.database.read() as connection:
        group_id = find_group(connection, group, actor).id if group else ""
        rows, more = machines.read_list(
            connection,
            scope=actor.scope,
            group_id=group_id,
            state=state,
            after=text_cursor(after),
            limit=limit,
        )
    return page_of(rows, more, machine_view, lambda row: row.name)


@post("/v1/machines", opt=OPERATE, status_code=HTTP_201_CREATED, sync_to_thread=True)
def add_machine(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    data: JSONBody[MachineNew],
) -> EnrolmentLine:
    """Add a machine that exists already; asked again, a new line for the same machine."""
    note(request, data)
    now = services.clock.now()
    with services.database.write() as connection:
        group = find_group(connection, data.group, actor)
        if group.platform != AGENT_ONLY:
            raise invalid(
                f"group: {group.name} is of platform {group.platform}, whose machines are made by"
                " upkeep; create a group of platform agent_only"
            )
        if group.delete_requested_at is not None:
            raise conflict(f"the group {group.name!r} is being deleted")
        known = machines.find(connection, data.name)
        if known is not None and known.group_id != group.id:
            raise conflict(f"there is a machine {data.name!r} in group {known.group_name}")
        if known is None:
            machine_id = services.ids.new("m")
            _check_no_scale_set_makes(connection, data.name)
            added = machines.add_existing(
                connection,
                machine_id=machine_id,
                group_id=group.id,
                name=data.name,
                zone=data.zone or "",
                now=now,
            )
            assert added
            groups.change(connection, group.id, {}, now=now)
            story.tell(connection, group.id, f"{actor.name} added {data.name}", now=now)
        else:
            machine_id = known.id
        line = _enrolment(connection, services, machine_id, data.name, group.name, now)
    services.announce(group.id)
    return line


@post(
    "/v1/machines/{machine:str}/enrol-token",
    opt=OPERATE,
    status_code=HTTP_201_CREATED,
    sync_to_thread=True,
)
def new_enrol_token(
    services: NamedDependency[Services], actor: NamedDependency[Actor], machine: FromPath[str]
) -> EnrolmentLine:
    """A new line for a machine whose agent has lost its identity."""
    now = services.clock.now()
    with services.database.write() as connection:
        row = find_machine(connection, machine, actor)
        return _enrolment(connection, services, row.id, row.name, row.group_name, now)


@get("/v1/machines/{machine:str}", opt=READ, sync_to_thread=True)
def show_machine(
    services: NamedDependency[Services], actor: NamedDependency[Actor], machine: FromPath[str]
) -> MachineView:
    """Show one machine."""
    with services.database.read() as connection:
        return machine_view(find_machine(connection, machine, actor))


@patch("/v1/machines/{machine:str}", opt=OPERATE, sync_to_thread=True)
def change_machine(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    machine: FromPath[str],
    data: JSONBody[MachinePatch],
) -> MachineView:
    """Protect a machine, or leave it out of rollouts; plans in flight are made again."""
    note(request, data)
    now = services.clock.now()
    with services.database.write() as connection:
        row = find_machine(connection, machine, actor)
        change_flags(connection, row, msgspec.structs.asdict(data), now=now)
        view = machine_view(find_machine(connection, row.id, actor))
    services.store.announce(row.group_id)
    return view


def change_flags(
    connection: Connection, row: Row[Any], flags: Mapping[str, bool | None], *, now: datetime
) -> None:
    """Protect a machine, or leave it out of rollouts; None leaves a flag as it is.

    Raises:
        InputError: CONFLICT, its group is being deleted, and goes as a whole.
    """
    group = groups.find(connection, row.group_id)
    if group is not None and group.delete_requested_at is not None and any(flags.values()):
        raise conflict(f"the group {group.name!r} is being deleted with its machines")
    machines.change_flags(connection, row.id, flags)
    groups.change(connection, row.group_id, {}, now=now)


@get("/v1/machines/{machine:str}/explain", opt=READ, sync_to_thread=True)
def explain_machine(
    services: NamedDependency[Services], actor: NamedDependency[Actor], machine: FromPath[str]
) -> Explanation:
    """Say what is being done to a machine, or why nothing is."""
    with services.database.read() as connection:
        row = find_machine(connection, machine, actor)
        action = machines.action_in_hand(connection, row.id)
        task = machines.task_in_hand(connection, row.id)
        held = holds.of_machine(connection, row.id)
    return Explanation(
        machine=machine_view(row),
        action=_action_view(action) if action is not None else None,
        task=_task_view(task) if task is not None else None,
        holds=[hold_view(hold) for hold in held],
    )


@post("/v1/machines/{machine:str}/restart", opt=OPERATE, status_code=HTTP_202_ACCEPTED)
async def restart_machine(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    machine: FromPath[str],
    data: JSONBody[Ask | None] = None,
) -> RolloutDetail:
    """Restart it, through the gate."""
    return await _call(request, services, actor, machine, Verb.RESTART, data)


@post("/v1/machines/{machine:str}/reimage", opt=OPERATE, status_code=HTTP_202_ACCEPTED)
async def reimage_machine(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    machine: FromPath[str],
    data: JSONBody[Ask | None] = None,
) -> RolloutDetail:
    """Give it a fresh OS disk of the version that it runs, through the gate; its data stays."""
    return await _call(request, services, actor, machine, Verb.REIMAGE, data)


@post("/v1/machines/{machine:str}/stop", opt=OPERATE, status_code=HTTP_202_ACCEPTED)
async def stop_machine(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    machine: FromPath[str],
    data: JSONBody[Ask | None] = None,
) -> RolloutDetail:
    """Stop it, through the gate; it is then left alone."""
    return await _call(request, services, actor, machine, Verb.STOP, data)


@post("/v1/machines/{machine:str}/start", opt=OPERATE, status_code=HTTP_202_ACCEPTED)
async def start_machine(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    machine: FromPath[str],
    data: JSONBody[Ask | None] = None,
) -> RolloutDetail:
    """Start a stopped machine."""
    return await _call(request, services, actor, machine, Verb.START, data)


@post("/v1/machines/{machine:str}/delete", opt=OPERATE, status_code=HTTP_202_ACCEPTED)
async def delete_machine(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    machine: FromPath[str],
    data: JSONBody[Ask | None] = None,
) -> RolloutDetail:
    """Delete it with its data, through the gate; its group does not make it again."""
    return await _call(request, services, actor, machine, Verb.DELETE, data)


ROUTES = [
    list_machines,
    add_machine,
    new_enrol_token,
    show_machine,
    change_machine,
    explain_machine,
    restart_machine,
    reimage_machine,
    stop_machine,
    start_machine,
    delete_machine,
]


async def _call(
    request: AnyRequest,
    services: Services,
    actor: Actor,
    machine: str,
    verb: Verb,
    data: Ask | None,
) -> RolloutDetail:
    wanted = data or Ask()
    note(request, wanted)

    def resolve() -> tuple[str, str]:
        with services.database.read() as connection:
            row = find_machine(connection, machine, actor)
            if row.platform == AGENT_ONLY:
                _check_agent_can(row, verb)
            return row.group_id, row.id

    group_id, machine_id = await asyncio.to_thread(resolve)
    rollout = await ask(services, actor, group_id, verb, machines=[machine_id], force=wanted.force)
    return await asyncio.to_thread(read_detail, services, actor, rollout)


def _check_agent_can(row: Row[Any], verb: Verb) -> None:
    """A machine whose power upkeep does not hold is restarted by its agent, and no more."""
    if verb in (Verb.START, Verb.STOP, Verb.REIMAGE):
        raise conflict(refusal(row.name, verb.value))
    if verb is Verb.RESTART and row.agent_enrolled_at is None:
        raise conflict(
            f"no agent has enrolled on {row.name}: run there the line that"
            f" `upkeep machine add {row.name}` prints, or restart it yourself"
        )


def _check_no_scale_set_makes(connection: Connection, name: str) -> None:
    """A scale set's machines are called GROUP-N; such a name is its own to give."""
    group, dash, number = name.rpartition("-")
    if not dash or not number.isdigit():
        return
    row = groups.find(connection, group)
    if row is not None and row.platform != AGENT_ONLY:
        raise conflict(f"group {row.name} makes machines of such names; give another name")


def _enrolment(
    connection: Connection,
    services: Services,
    machine_id: str,
    name: str,
    group: str,
    now: datetime,
) -> EnrolmentLine:
    token = agents.new_enrol_token(connection, machine_id, now)
    return EnrolmentLine(
        name=name,
        group=group,
        line=pasted_line(services.url, services.certificates.ca_sha256, machine=name, token=token),
        token=token,
        expires_at=now + agents.ENROL_TOKEN_LIFE,
    )


def machine_view(row: Row[Any]) -> MachineView:
    return MachineView(
        id=row.id,
        name=row.name,
        group=row.group_name,
        platform=row.platform,
        zone=row.zone,
        update_domain=row.update_domain,
        fault_domain=row.fault_domain,
        host=row.host,
        lifecycle=Lifecycle(row.lifecycle),
        image=row.image,
        kept=row.kept,
        model=row.model,
        health=Health(row.health),
        health_since=from_us(row.health_since),
        health_detail=row.health_detail,
        down=bool(row.down),
        in_work=bool(row.in_work),
        protected=bool(row.protected),
        scale_in_protected=bool(row.scale_in_protected),
        opted_out=bool(row.opted_out),
        phase=row.phase,
        skip=bool(row.skip),
        address=row.address,
        uuid=row.uuid,
        created_at=from_us(row.created_at),
        worked_at=from_us_or_none(row.worked_at),
        agent=_agent_view(row) if row.agent_machine_id is not None else None,
    )


def _agent_view(row: Row[Any]) -> AgentView:
    return AgentView(
        version=row.agent_agent_version,
        boot_id=row.agent_boot_id,
        os=row.agent_os,
        image_name=row.agent_image_name,
        image_version=row.agent_image_version,
        first_boot=row.agent_first_boot,
        first_boot_detail=row.agent_first_boot_detail,
        reboot_required=row.agent_reboot_required,
        busy=row.agent_busy,
        conflict=row.agent_conflict,
        enrolled_at=from_us_or_none(row.agent_enrolled_at),
        seen_at=from_us_or_none(row.agent_seen_at),
    )


def _action_view(row: Row[Any]) -> ActionView:
    return ActionView(
        key=row.key,
        verb=row.verb,
        version=row.version,
        state=row.state,
        rollout=row.rollout_id,
        attempts=row.attempts,
        detail=row.detail,
        created_at=from_us(row.created_at),
        started_at=from_us_or_none(row.started_at),
    )


def _task_view(row: Row[Any]) -> TaskInHand:
    return TaskInHand(
        rollout=row.rollout_id,
        system=row.system,
        verb=row.verb,
        target=row.target,
        state=row.state,
        since=from_us(row.state_since),
        detail=row.detail,
    )

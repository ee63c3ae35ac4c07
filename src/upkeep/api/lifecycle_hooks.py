"""What rollouts ask at their lifecycle hooks: see the questions, answer, let them wait on."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal

from litestar import get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from msgspec import Meta
from sqlalchemy import Connection

from upkeep.api.auth import OPERATE, READ, Actor
from upkeep.api.problems import conflict, invalid, not_found
from upkeep.api.services import Services
from upkeep.api.shapes import AnyRequest, Body, Filter, Name, Page, View, find_group, note, utc
from upkeep.core.hook_event import THE_GROUP, Answer, HookEvent
from upkeep.core.model import MachineId
from upkeep.store import groups, hook_events, machines, story

MACHINES_MAX = 1_000
# How far the end of a question may be moved on, from when it was put.  Source: docs/adr/0016.
WAIT_LONGEST = timedelta(days=2)


class HookAnswer(Body):
    """`machines` absent: for everybody, or for the rollout, whom the question is about."""

    answer: Literal["approved", "rejected"]
    machines: Annotated[tuple[Name, ...], Meta(max_length=MACHINES_MAX)] = ()


class HookPatch(Body):
    """`wait_until`: silence is an answer from then on; two days after the question at most."""

    wait_until: datetime


class HookView(View):
    """`about`: `start` of the rollout or a `batch`; `answers`: by machine, empty for a start, whose
    one answer is `answer`; `silence`: what no answer means; `open`: it can still be answered."""

    id: str
    group: str
    rollout: str
    about: str
    created_at: datetime
    wait_until: datetime
    silence: str
    open: bool
    answer: str | None
    answers: dict[str, str]


@get("/v1/hooks", opt=READ, sync_to_thread=True)
def list_hooks(
    services: NamedDependency[Services], actor: NamedDependency[Actor], group: Filter = ""
) -> Page[HookView]:
    """The latest questions of a group, or all that are still open; newest first."""
    with services.database.read() as connection:
        if group:
            row = find_group(connection, group, actor)
            found = hook_events.of_group(connection, row.id)
        else:
            found = hook_events.still_open(connection, scope=actor.scope)
        return Page(items=_views(connection, found), next=None)


@get("/v1/hooks/{hook:str}", opt=READ, sync_to_thread=True)
def show_hook(
    services: NamedDependency[Services], actor: NamedDependency[Actor], hook: FromPath[str]
) -> HookView:
    """One question with its answers."""
    with services.database.read() as connection:
        _, event = _find(connection, hook, actor)
        return _view(connection, event)


@post("/v1/hooks/{hook:str}/answer", opt=OPERATE, status_code=HTTP_200_OK, sync_to_thread=True)
def answer_hook(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    hook: FromPath[str],
    data: JSONBody[HookAnswer],
) -> HookView:
    """Approve or reject; the rollout goes on once everybody has been answered for."""
    note(request, data)
    now = services.clock.now()
    with services.database.write() as connection:
        group_id, event = _find(connection, hook, actor)
        names = machines.names(connection, list(event.answers))
        known = {name: MachineId(machine) for machine, name in names.items()}
        unknown = [name for name in data.machines if name not in known]
        if unknown:
            raise invalid(f"machines: {hook} does not ask about {', '.join(unknown[:5])}")
        chosen = [known[name] for name in data.machines] or list(event.answers)
        answers = dict.fromkeys(chosen, Answer(data.answer))
        answer(connection, event, answers, actor, group_id=group_id, now=now)
        view = _view(connection, _again(connection, event))
    services.announce(group_id)
    return view


@patch("/v1/hooks/{hook:str}", opt=OPERATE, sync_to_thread=True)
def change_hook(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    hook: FromPath[str],
    data: JSONBody[HookPatch],
) -> HookView:
    """Let the question wait longer, or shorter."""
    note(request, data)
    now = services.clock.now()
    with services.database.write() as connection:
        group_id, event = _find(connection, hook, actor)
        wait_until = utc(data.wait_until, "wait_until")
        move_end(connection, event, wait_until, actor, group_id=group_id, now=now)
        view = _view(connection, _again(connection, event))
    services.announce(group_id)
    return view


ROUTES = [list_hooks, show_hook, answer_hook, change_hook]


def hook_id(event: HookEvent) -> str:
    return f"{event.rollout}.{event.serial}"


def answer(
    connection: Connection,
    event: HookEvent,
    answers: Mapping[MachineId, Answer],
    actor: Actor,
    *,
    group_id: str,
    now: datetime,
) -> None:
    """Write down what somebody says.

    Raises:
        InputError: the question is closed.
    """
    _check_open(event, now)
    hook_events.answer(connection, event, answers, group_id=group_id, now=now)
    for said in sorted(set(answers.values())):
        count = sum(each is said for each in answers.values())
        what = "its beginning" if THE_GROUP in answers else f"{count} machine{'s' * (count != 1)}"
        line = f"{actor.name} says {said} of {event.rollout} for {what}"
        story.tell(connection, group_id, line, now=now)


def move_end(
    connection: Connection,
    event: HookEvent,
    wait_until: datetime,
    actor: Actor,
    *,
    group_id: str,
    now: datetime,
) -> None:
    """Move the moment from which silence is an answer.

    Raises:
        InputError: the question is closed, or the moment is too far away.
    """
    _check_open(event, now)
    latest = longest_wait(event)
    if wait_until > latest:
        raise invalid(f"wait_until: at most {latest:%Y-%m-%dT%H:%M:%SZ}, two days after it was put")
    hook_events.move_end(connection, event, wait_until, group_id=group_id, now=now)
    line = f"{actor.name} lets {event.rollout} wait until {wait_until:%Y-%m-%d %H:%M:%SZ}"
    story.tell(connection, group_id, line, now=now)


def longest_wait(event: HookEvent) -> datetime:
    return event.created_at + WAIT_LONGEST


def is_over(event: HookEvent, now: datetime) -> bool:
    """Closed, or about to be: whatever is said now comes too late."""
    return event.closed or now >= event.wait_until


def _check_open(event: HookEvent, now: datetime) -> None:
    if is_over(event, now):
        raise conflict(f"{hook_id(event)} is closed; it waited until {event.wait_until:%H:%M:%SZ}")


def _find(connection: Connection, hook: str, actor: Actor) -> tuple[str, HookEvent]:
    """The question and the id of its group."""
    rollout, dot, serial = hook.rpartition(".")
    event = None
    if dot and serial.isdecimal() and len(serial) < 9 and "\x00" not in hook:
        group = hook_events.group_of(connection, rollout, scope=actor.scope)
        event = hook_events.find(connection, rollout, int(serial)) if group is not None else None
    if event is None or group is None:
        raise not_found(f"there is no question {hook[:80]!r}; list them with GET /v1/hooks")
    return str(group.id), event


def _again(connection: Connection, event: HookEvent) -> HookEvent:
    found = hook_events.find(connection, event.rollout, event.serial)
    assert found is not None
    return found


def _view(connection: Connection, event: HookEvent) -> HookView:
    (view,) = _views(connection, [event])
    return view


def _views(connection: Connection, events: Sequence[HookEvent]) -> list[HookView]:
    asked = sorted({machine for event in events for machine in event.answers})
    names = machines.names(connection, asked)
    owners = groups.names_by_rollout(connection, [event.rollout for event in events])
    return [
        HookView(
            id=hook_id(event),
            group=owners[event.rollout],
            rollout=event.rollout,
            about=event.kind,
            created_at=event.created_at,
            wait_until=event.wait_until,
            silence=Answer.APPROVED if event.approves else Answer.REJECTED,
            open=not event.closed,
            answer=event.answers.get(THE_GROUP),
            answers={
                names.get(machine, machine): said
                for machine, said in sorted(event.answers.items())
                if machine != THE_GROUP
            },
        )
        for event in events
    ]

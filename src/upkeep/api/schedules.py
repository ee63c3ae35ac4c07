"""Schedules: windows that recur, and the groups whose OS image upgrades happen in them alone."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any
from zoneinfo import available_timezones

import msgspec
from litestar import delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import Connection, Row

from upkeep.api.auth import OPERATE, READ, Actor
from upkeep.api.problems import conflict, invalid, not_found
from upkeep.api.services import Services
from upkeep.api.shapes import (
    After,
    AnyRequest,
    Body,
    Limit,
    Name,
    Page,
    Text,
    View,
    find_group,
    is_name,
    note,
    page_of,
    text_cursor,
)
from upkeep.core.recurrence import Schedule, next_windows
from upkeep.core.systems.os_image import schedule_errors
from upkeep.store import schedules

# How many of the coming windows are shown.
WINDOWS_SHOWN = 5

LocalTime = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}\Z",
        description="a wall-clock time of the schedule's zone, as 2026-12-24 22:00",
    ),
]


class ScheduleNew(Body):
    """`recur_every` absent: no window opens by itself, so a group that is assigned waits for good.
    `expires` absent: never."""

    name: Name
    starts: LocalTime
    zone: Text
    length_s: int
    recur_every: Text = ""
    expires: LocalTime | None = None
    scope: Name = "default"
    region: Name = "local"


class SchedulePatch(Body):
    """What is absent stays as it is."""

    starts: LocalTime | UnsetType = UNSET
    zone: Text | UnsetType = UNSET
    length_s: int | UnsetType = UNSET
    recur_every: Text | UnsetType = UNSET
    expires: LocalTime | UnsetType | None = UNSET


class WindowView(View):
    opens: datetime
    closes: datetime


class ScheduleView(View):
    """`windows`: the one that is open and those that come, five at most."""

    name: str
    scope: str
    region: str
    starts: str
    expires: str | None
    zone: str
    length_s: int
    recur_every: str
    groups: list[str]
    windows: list[WindowView]


@get("/v1/schedules", opt=READ, sync_to_thread=True)
def list_schedules(
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    limit: Limit = 100,
    after: After = None,
) -> Page[ScheduleView]:
    """List schedules, by name."""
    now = services.clock.peek()
    with services.database.read() as connection:
        rows, more = schedules.read_list(
            connection, scope=actor.scope, after=text_cursor(after), limit=limit
        )
        views = {view.name: view for view in _views(connection, rows, now)}
    return page_of(rows, more, lambda row: views[row.name], lambda row: row.name)


@get("/v1/schedules/{schedule:str}", opt=READ, sync_to_thread=True)
def show_schedule(
    services: NamedDependency[Services], actor: NamedDependency[Actor], schedule: FromPath[str]
) -> ScheduleView:
    """One schedule with its groups and its next windows."""
    now = services.clock.peek()
    with services.database.read() as connection:
        return _view(connection, find_schedule(connection, schedule, actor), now)


@post("/v1/schedules", opt=OPERATE, sync_to_thread=True)
def create_schedule(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    data: JSONBody[ScheduleNew],
) -> ScheduleView:
    """Create a schedule; nothing happens in it before a group is assigned."""
    note(request, data)
    now = services.clock.now()
    schedule = checked(
        Schedule(
            name=data.name,
            starts=local_time(data.starts, "starts"),
            expires=local_time(data.expires, "expires") if data.expires else None,
            zone=data.zone,
            length=_length(data.length_s),
            recur_every=data.recur_every,
        )
    )
    with services.database.write() as connection:
        create(connection, services, actor, schedule, scope=data.scope, region=data.region, now=now)
        return _view(connection, find_schedule(connection, data.name, actor), now)


@patch("/v1/schedules/{schedule:str}", opt=OPERATE, sync_to_thread=True)
def change_schedule(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    schedule: FromPath[str],
    data: JSONBody[SchedulePatch],
) -> ScheduleView:
    """Change a schedule; work that has begun is finished."""
    note(request, data)
    now = services.clock.now()
    with services.database.write() as connection:
        row = find_schedule(connection, schedule, actor)
        changed = checked(_patched(schedules.schedule_from(row), data))
        marked = schedules.change(connection, row, changed, now=now)
        view = _view(connection, find_schedule(connection, schedule, actor), now)
    services.announce(*marked)
    return view


@delete("/v1/schedules/{schedule:str}", opt=OPERATE, status_code=HTTP_200_OK, sync_to_thread=True)
def delete_schedule(
    services: NamedDependency[Services], actor: NamedDependency[Actor], schedule: FromPath[str]
) -> ScheduleView:
    """Delete a schedule; groups that have no other one may be worked on at any time."""
    now = services.clock.now()
    with services.database.write() as connection:
        row = find_schedule(connection, schedule, actor)
        view = _view(connection, row, now)
        marked = schedules.remove(connection, row, now=now)
    services.announce(*marked)
    return view


@put("/v1/schedules/{schedule:str}/groups/{group:str}", opt=OPERATE, sync_to_thread=True)
def assign_group(
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    schedule: FromPath[str],
    group: FromPath[str],
) -> ScheduleView:
    """Let a group's OS image upgrades happen in the schedule's windows alone."""
    now = services.clock.now()
    with services.database.write() as connection:
        row = find_schedule(connection, schedule, actor)
        target = find_group(connection, group, actor)
        schedules.assign(connection, row, target, name=row.name, now=now)
        view = _view(connection, row, now)
    services.announce(target.id)
    return view


@delete(
    "/v1/schedules/{schedule:str}/groups/{group:str}",
    opt=OPERATE,
    status_code=HTTP_200_OK,
    sync_to_thread=True,
)
def unassign_group(
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    schedule: FromPath[str],
    group: FromPath[str],
) -> ScheduleView:
    """Take a group out of a schedule; with no other one it may be worked on at any time."""
    now = services.clock.now()
    with services.database.write() as connection:
        row = find_schedule(connection, schedule, actor)
        target = find_group(connection, group, actor)
        if not schedules.unassign(connection, row, target, now=now):
            raise not_found(f"group {group} is not assigned to schedule {schedule}")
        view = _view(connection, row, now)
    services.announce(target.id)
    return view


ROUTES = [
    list_schedules,
    show_schedule,
    create_schedule,
    change_schedule,
    delete_schedule,
    assign_group,
    unassign_group,
]


def find_schedule(connection: Connection, name: str, actor: Actor) -> Row[Any]:
    """The schedule of a path or a body.

    Raises:
        InputError: NOT_FOUND, also where it is outside of the token's scope.
    """
    row = schedules.find(connection, name, scope=actor.scope) if is_name(name) else None
    if row is None:
        raise not_found(f"there is no schedule {name!r}; list them with GET /v1/schedules")
    return row


def create(
    connection: Connection,
    services: Services,
    actor: Actor,
    schedule: Schedule,
    *,
    scope: str,
    region: str,
    now: datetime,
) -> None:
    """Write a checked schedule.

    Raises:
        InputError: the name is taken, or the scope is not the token's.
    """
    if actor.scope and scope != actor.scope:
        raise invalid(f"scope: your token is narrowed to {actor.scope!r}")
    if schedules.find(connection, schedule.name) is not None:
        raise conflict(f"there is a schedule {schedule.name!r} already; choose another name")
    schedules.create(
        connection, services.ids.new("sc"), schedule, scope=scope, region=region, now=now
    )


def checked(schedule: Schedule) -> Schedule:
    """The schedule, if OS image upgrades can happen in its windows.

    Raises:
        InputError: they cannot; every reason is named.
    """
    errors = schedule_errors(schedule)
    if schedule.zone not in available_timezones():
        errors.append(f"zone: {schedule.zone!r} is none; write an IANA name, as Europe/Berlin")
    if errors:
        raise invalid("; ".join(errors))
    return schedule


def local_time(text: str, field: str) -> datetime:
    """A wall-clock time of `YYYY-MM-DD hh:mm`.

    Raises:
        InputError: there is no such time.
    """
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise invalid(f"{field}: {text!r} is no time; write it as 2026-12-24 22:00") from None


def _length(seconds: int) -> timedelta:
    longest_s = 366 * 86_400
    if not 0 < seconds <= longest_s or seconds % 60:
        raise invalid("length_s: whole minutes, as 18000 for five hours")
    return timedelta(seconds=seconds)


def _patched(schedule: Schedule, data: SchedulePatch) -> Schedule:
    given = {k: v for k, v in msgspec.structs.asdict(data).items() if v is not UNSET}
    for name in ("starts", "expires"):
        if given.get(name):
            given[name] = local_time(given[name], name)
    if "length_s" in given:
        given["length"] = _length(given.pop("length_s"))
    return replace(schedule, **given)


def _views(connection: Connection, rows: list[Row[Any]], now: datetime) -> list[ScheduleView]:
    users = schedules.groups_of(connection, [row.id for row in rows])
    return [
        ScheduleView(
            name=row.name,
            scope=row.scope,
            region=row.region,
            starts=row.starts,
            expires=row.expires or None,
            zone=row.zone,
            length_s=row.length_s,
            recur_every=row.recur_every,
            groups=users[row.id],
            windows=[
                WindowView(opens=window.opens, closes=window.closes)
                for window in next_windows(
                    schedules.schedule_from(row), now=now, count=WINDOWS_SHOWN
                )
            ],
        )
        for row in rows
    ]


def _view(connection: Connection, row: Row[Any], now: datetime) -> ScheduleView:
    (view,) = _views(connection, [row], now)
    return view

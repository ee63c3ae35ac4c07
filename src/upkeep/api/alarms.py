"""Alarms: queries that must stay quiet while a rollout goes over their group."""

from datetime import datetime
from typing import Any

from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from sqlalchemy import Row

from upkeep.api.auth import OPERATE, READ, Actor
from upkeep.api.problems import conflict, invalid, not_found
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
    page_of,
    text_cursor,
)
from upkeep.core.alarm import Alarm, AlarmAction, AlarmState, told
from upkeep.engine.prometheus import CannotAskError, url_error
from upkeep.store import alarms
from upkeep.store.database import from_us

URL_LENGTH_MAX = 500
QUERY_LENGTH_MAX = 4_000


class AlarmNew(Body):
    """`url`: of a Prometheus; `query`: fires where its answer is not empty (or not zero)."""

    group: Name
    name: Label
    url: str
    query: str
    action: AlarmAction = AlarmAction.HOLD


class AlarmView(View):
    id: str
    group: str
    name: str
    url: str
    query: str
    action: AlarmAction
    state: AlarmState
    since: datetime
    detail: str


@get("/v1/alarms", opt=READ, sync_to_thread=True)
def list_alarms(
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    limit: Limit = 100,
    after: After = None,
) -> Page[AlarmView]:
    """List alarms and what was answered last, by id."""
    with services.database.read() as connection:
        rows, more = alarms.read_list(
            connection, scope=actor.scope, after=text_cursor(after), limit=limit
        )
    return page_of(rows, more, _view, lambda row: row.id)


@post("/v1/alarms", opt=OPERATE, sync_to_thread=True)
def create_alarm(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    data: JSONBody[AlarmNew],
) -> AlarmView:
    """Create an alarm; it is asked at once, and refused where nobody answers."""
    note(request, data)
    wrong = "is too long" if len(data.url) > URL_LENGTH_MAX else url_error(data.url)
    if wrong:
        raise invalid(f"url {wrong}")
    if not data.query.strip() or len(data.query) > QUERY_LENGTH_MAX or "\x00" in data.query:
        raise invalid(f"query: write a PromQL expression of 1 to {QUERY_LENGTH_MAX} letters")
    with services.database.read() as connection:
        find_group(connection, data.group, actor)
    try:
        answer = services.ask_alarm(data.url, data.query)
    except CannotAskError as error:
        raise invalid(f"{error}; such an alarm would hold every rollout") from error
    now = services.clock.now()
    alarm = Alarm(name=data.name, action=data.action, since=now)
    alarm_id = services.ids.new("al")
    with services.database.write() as connection:
        group = find_group(connection, data.group, actor)
        if alarms.is_taken(connection, group.id, data.name):
            raise conflict(f"group {data.group} has an alarm {data.name!r}: delete it first")
        alarms.create(
            connection,
            group.id,
            told(alarm, answer.state, answer.detail, now=now),
            alarm_id=alarm_id,
            url=data.url,
            query=data.query,
            now=now,
        )
        row = alarms.find(connection, alarm_id)
        assert row is not None
        view = _view(row)
    services.announce(group.id)
    return view


@delete("/v1/alarms/{alarm:str}", opt=OPERATE, status_code=HTTP_200_OK, sync_to_thread=True)
def delete_alarm(
    services: NamedDependency[Services], actor: NamedDependency[Actor], alarm: FromPath[str]
) -> AlarmView:
    """Delete an alarm; what it held may begin at once."""
    now = services.clock.now()
    with services.database.write() as connection:
        row = None
        if "\x00" not in alarm:
            row = alarms.find(connection, alarm, scope=actor.scope)
        if row is None:
            raise not_found(f"there is no alarm {alarm!r}; list them with GET /v1/alarms")
        view = _view(row)
        alarms.remove(connection, row, now=now)
    services.announce(row.group_id)
    return view


ROUTES = [list_alarms, create_alarm, delete_alarm]


def _view(row: Row[Any]) -> AlarmView:
    return AlarmView(
        id=row.id,
        group=row.group_name,
        name=row.name,
        url=row.url,
        query=row.query,
        action=AlarmAction(row.action),
        state=AlarmState(row.state),
        since=from_us(row.since),
        detail=row.detail,
    )

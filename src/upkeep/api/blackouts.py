"""Blackouts: times in which nothing disruptive starts, in one group or everywhere."""

from datetime import datetime, timedelta
from typing import Any

from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from sqlalchemy import Row

from upkeep.api.auth import OPERATE, READ, Actor
from upkeep.api.problems import InputError, ProblemKind, invalid, not_found
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
    utc,
)
from upkeep.store import blackouts
from upkeep.store.database import from_us

# A slip in the year must not stop a fleet's patches until somebody wonders.
LENGTH_MAX = timedelta(days=366)


class BlackoutNew(Body):
    """`group` absent: every group.  Half-open: at `closes` work may start again."""

    name: Label
    opens: datetime
    closes: datetime
    group: Name | None = None


class BlackoutView(View):
    id: str
    name: str
    group: str | None
    opens: datetime
    closes: datetime


@get("/v1/blackouts", opt=READ, sync_to_thread=True)
def list_blackouts(
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    limit: Limit = 100,
    after: After = None,
) -> Page[BlackoutView]:
    """List blackouts, by id."""
    with services.database.read() as connection:
        rows, more = blackouts.read_list(
            connection, scope=actor.scope, after=text_cursor(after), limit=limit
        )
    return page_of(rows, more, _view, lambda row: row.id)


@post("/v1/blackouts", opt=OPERATE, sync_to_thread=True)
def create_blackout(
    request: AnyRequest,
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    data: JSONBody[BlackoutNew],
) -> BlackoutView:
    """Create a blackout; what is under way when it opens is finished."""
    note(request, data)
    opens, closes = utc(data.opens, "opens"), utc(data.closes, "closes")
    if not opens < closes <= opens + LENGTH_MAX:
        raise invalid(f"closes: set it after opens, at most {LENGTH_MAX.days} days later")
    _check_scope(actor, for_all=data.group is None)
    blackout_id = services.ids.new("bo")
    now = services.clock.now()
    with services.database.write() as connection:
        group_id = find_group(connection, data.group, actor).id if data.group else ""
        marked = blackouts.create(
            connection,
            blackout_id=blackout_id,
            name=data.name,
            group_id=group_id,
            opens=opens,
            closes=closes,
            now=now,
        )
        row = blackouts.find(connection, blackout_id)
        assert row is not None
        view = _view(row)
    services.announce(*marked)
    return view


@delete("/v1/blackouts/{blackout:str}", opt=OPERATE, status_code=HTTP_200_OK, sync_to_thread=True)
def delete_blackout(
    services: NamedDependency[Services], actor: NamedDependency[Actor], blackout: FromPath[str]
) -> BlackoutView:
    """Delete a blackout; what it held may start at once."""
    now = services.clock.now()
    with services.database.write() as connection:
        row = None
        if "\x00" not in blackout:
            row = blackouts.find(connection, blackout, scope=actor.scope)
        if row is None:
            raise not_found(f"there is no blackout {blackout!r}; list them with GET /v1/blackouts")
        _check_scope(actor, for_all=not row.group_id)
        view = _view(row)
        marked = blackouts.remove(connection, row, now=now)
    services.announce(*marked)
    return view


ROUTES = [list_blackouts, create_blackout, delete_blackout]


def _check_scope(actor: Actor, *, for_all: bool) -> None:
    if for_all and actor.scope:
        raise InputError(
            ProblemKind.FORBIDDEN,
            f"a blackout for every group needs a token for all scopes; yours is {actor.scope!r}'s",
        )


def _view(row: Row[Any]) -> BlackoutView:
    return BlackoutView(
        id=row.id,
        name=row.name,
        group=row.group_name,
        opens=from_us(row.opens),
        closes=from_us(row.closes),
    )

"""Holds: why a machine that is not up to date is not being worked on."""

from datetime import datetime
from typing import Any

from litestar import get
from litestar.di import NamedDependency
from sqlalchemy import Row

from upkeep.api.auth import READ, Actor
from upkeep.api.problems import invalid
from upkeep.api.services import Services
from upkeep.api.shapes import After, Filter, Limit, Page, View, find_group, page_of, text_cursor
from upkeep.core.hold import HoldReason
from upkeep.store import holds
from upkeep.store.database import from_us, from_us_or_none


class HoldView(View):
    machine: str
    machine_id: str
    group: str
    system: str
    reason: HoldReason
    since: datetime
    until: datetime | None
    lifted_by: str
    budget: str


@get("/v1/holds", opt=READ, sync_to_thread=True)
def list_holds(
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    group: Filter = "",
    reason: Filter = "",
    limit: Limit = 100,
    after: After = None,
) -> Page[HoldView]:
    """List holds, by machine."""
    if reason and reason not in set(HoldReason):
        raise invalid(f"reason: one of {', '.join(HoldReason)}")
    with services.database.read() as connection:
        group_id = find_group(connection, group, actor).id if group else ""
        rows, more = holds.read_list(
            connection,
            scope=actor.scope,
            group_id=group_id,
            reason=reason,
            after=text_cursor(after),
            limit=limit,
        )
    return page_of(rows, more, hold_view, holds.cursor_of)


ROUTES = [list_holds]


def hold_view(row: Row[Any]) -> HoldView:
    return HoldView(
        machine=row.machine_name,
        machine_id=row.machine_id,
        group=row.group_name,
        system=row.system,
        reason=HoldReason(row.reason),
        since=from_us(row.since),
        until=from_us_or_none(row.until),
        lifted_by=row.lifted_by,
        budget=row.budget_name or "",
    )

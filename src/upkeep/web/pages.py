"""The three pages: the fleet, one group, one machine; whole, or only the parts that may change."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from urllib.parse import quote, urlencode

from litestar import Response

from upkeep.store.machine_detail import MachineDetail, read_machine
from upkeep.store.overview import MachineRow, read_overview
from upkeep.web.door import PageServices
from upkeep.web.headline import headline
from upkeep.web.looks import WORDS, Look, is_down, look_of, tally
from upkeep.web.render import page, roster
from upkeep.web.views import (
    Card,
    Moment,
    card,
    fleet_budgets,
    group_view,
    groups_on_page,
    written,
)
from upkeep.web.words import HEALTH, cause

GROUPS_MAX = 60
STORY_MAX = 40
GROUP_STORY_MAX = 200
GROUP_ENDED_MAX = 20
MACHINES_LISTED_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A row of a group's table of machines."""

    card: Card
    zone: str
    since: Moment


def overview_page(
    services: PageServices,
    scope: str,
    *,
    after: str = "",
    only: Collection[str] | None,
    whole: bool,
) -> Response[str]:
    """The fleet.

    Args:
        after: the name of the last group of the page before.
        only: ids of the groups whose panels are wanted; None means all of this page.
    """
    now = services.clock.peek()
    with services.database.read() as connection:
        overview = read_overview(connection, now=now, draw=only, scope=scope, story_max=STORY_MAX)
    on_page, following = groups_on_page(overview.groups, after=after, most=GROUPS_MAX)
    wanted = [group for group in on_page if only is None or group.id in only]
    return page(
        "overview.html" if whole else "overview_parts.html",
        now=written(now, now=now),
        written=partial(written, now=now),
        refresh=_path("/fragments/overview", after=after),
        said=headline(overview, now=now),
        groups=[group_view(overview, group, now=now) for group in wanted],
        roster=roster([group.name for group in on_page]),
        following=following,
        story=overview.story,
        names={group.id: group.name for group in overview.groups},
        budgets=fleet_budgets(overview),
        blackouts=[row for row in overview.blackouts if not row.group],
    )


def group_page(
    services: PageServices, scope: str, name: str, *, look: str, start: int, whole: bool
) -> Response[str]:
    """One group with all its machines in a table, and all its history."""
    now = services.clock.peek()
    with services.database.read() as connection:
        overview = read_overview(
            connection,
            now=now,
            scope=scope,
            only=name,
            ended_max=GROUP_ENDED_MAX,
            story_max=GROUP_STORY_MAX,
        )
    if not overview.groups:
        return missing(f"There is no group {name}")
    group = overview.groups[0]
    machines = overview.cells.get(group.id, ())
    chosen = [m for m in machines if not look or look_of(m) == look]
    here = f"/groups/{quote(name)}"
    following = start + MACHINES_LISTED_MAX
    return page(
        "group.html" if whole else "group_parts.html",
        now=written(now, now=now),
        written=partial(written, now=now),
        refresh=_path(f"/fragments{here}", look=look, **{"from": str(start) if start else ""}),
        here=here,
        view=group_view(overview, group, now=now),
        story=overview.story,
        look=look,
        looks=[(each, WORDS[each], number) for each, number in tally(machines)],
        listed=[_listed(m, now) for m in chosen[start:following]],
        following=following if following < len(chosen) else 0,
    )


def _listed(machine: MachineRow, now: datetime) -> Listed:
    return Listed(
        card=card(machine, now=now),
        zone=machine.zone,
        since=written(machine.health_since, now=now),
    )


def machine_page(services: PageServices, scope: str, name: str, *, whole: bool) -> Response[str]:
    """One machine: its state, what holds it, what was done to it."""
    now = services.clock.peek()
    with services.database.read() as connection:
        detail = read_machine(connection, name, scope=scope)
    if detail is None:
        return missing(f"There is no machine {name}")
    shown = card(detail.machine, now=now)
    return page(
        "machine.html" if whole else "machine_parts.html",
        now=written(now, now=now),
        written=partial(written, now=now),
        refresh=f"/fragments/machines/{quote(name)}",
        detail=detail,
        card=shown,
        cause=cause(detail.machine, today=now) if shown.why else "",
        severity=_severity(detail, shown),
        health=HEALTH[detail.machine.health],
    )


def _severity(detail: MachineDetail, shown: Card) -> str:
    if shown.look in (Look.UNHEALTHY, Look.UNKNOWN):
        return "down"
    return "work" if is_down(detail.machine) or detail.machine.task else "well"


def missing(title: str) -> Response[str]:
    return page(
        "problem.html", status=404, title=title, detail="It may have been deleted or renamed."
    )


def _path(path: str, **query: str) -> str:
    given = {key: value for key, value in query.items() if value}
    return f"{path}?{urlencode(given)}" if given else path

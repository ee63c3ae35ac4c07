"""Budgets over machines of any groups; each group's own one is its policy's and only shown."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import Connection, Row

from upkeep.api.auth import OPERATE_ALL, READ
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
    note,
    page_of,
    text_cursor,
)
from upkeep.store import budgets, groups
from upkeep.store.database import from_us
from upkeep.store.selectors import VALUES_MAX, Selector, parse_selector

COUNT_MAX = 1_000_000
RATE_PERIOD_S_MAX = 31 * 86_400
SECOND_US = 1_000_000

Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Values = Annotated[tuple[Label, ...], Meta(max_length=VALUES_MAX)]


class SelectorBody(Body):
    """A machine must match each key that is not empty; groups are given by name."""

    groups: Annotated[tuple[Name, ...], Meta(max_length=VALUES_MAX)] = ()
    zones: Values = ()
    hosts: Values = ()


class BudgetNew(Body):
    """Exactly one of max_down and min_available, or neither where there is a rate."""

    name: Name
    selector: SelectorBody = msgspec.field(default_factory=SelectorBody)
    max_down: Count | None = None
    min_available: Count | None = None
    percent: bool = False
    per_zone: bool = False
    rate: Count = 0
    rate_period_s: Annotated[int, Meta(ge=0, le=RATE_PERIOD_S_MAX)] = 0


class BudgetPatch(Body):
    """Naming one limit takes the other away."""

    selector: SelectorBody | UnsetType = UNSET
    max_down: Count | UnsetType = UNSET
    min_available: Count | UnsetType = UNSET
    percent: bool | UnsetType = UNSET
    per_zone: bool | UnsetType = UNSET
    rate: Count | UnsetType = UNSET
    rate_period_s: Annotated[int, Meta(ge=0, le=RATE_PERIOD_S_MAX)] | UnsetType = UNSET


class BudgetView(View):
    """`group`: whose own budget it is.  `used` of `size` machines are down or claimed."""

    id: str
    name: str
    group: str | None
    selector: dict[str, list[str]]
    max_down: int | None
    min_available: int | None
    percent: bool
    per_zone: bool
    rate: int
    rate_period_s: int
    size: int
    used: int
    claimed: int
    created_at: datetime


@get("/v1/budgets", opt={**READ, "unscoped": True}, sync_to_thread=True)
def list_budgets(
    services: NamedDependency[Services], limit: Limit = 100, after: After = None
) -> Page[BudgetView]:
    """List budgets, by id; the groups' own are among them."""
    with services.database.read() as connection:
        rows, more = budgets.read_list(connection, after=text_cursor(after), limit=limit)
        views = {view.id: view for view in _views(connection, rows)}
    return page_of(rows, more, lambda row: views[row.id], lambda row: row.id)


@post("/v1/budgets", opt=OPERATE_ALL, sync_to_thread=True)
def create_budget(
    request: AnyRequest, services: NamedDependency[Services], data: JSONBody[BudgetNew]
) -> BudgetView:
    """Create a budget; it holds at once, also for rollouts that are running."""
    note(request, data)
    now = services.clock.now()
    with services.database.write() as connection:
        values = {"name": data.name, **_columns(connection, data)}
        _check_limits(values)
        marked = budgets.create(connection, budget_id=services.ids.new("b"), values=values, now=now)
        if marked is None:
            raise conflict(f"there is a budget {data.name!r} already; change it with PATCH")
        view = _views(connection, [_find(connection, data.name)])[0]
    services.announce(*marked)
    return view


@get("/v1/budgets/{budget:str}", opt={**READ, "unscoped": True}, sync_to_thread=True)
def show_budget(services: NamedDependency[Services], budget: FromPath[str]) -> BudgetView:
    """Show a budget, and how much of it is used."""
    with services.database.read() as connection:
        return _views(connection, [_find(connection, budget)])[0]


@patch("/v1/budgets/{budget:str}", opt=OPERATE_ALL, sync_to_thread=True)
def change_budget(
    request: AnyRequest,
    services: NamedDependency[Services],
    budget: FromPath[str],
    data: JSONBody[BudgetPatch],
) -> BudgetView:
    """Change a budget; plans that counted on the old limit are made again."""
    note(request, data)
    now = services.clock.now()
    with services.database.write() as connection:
        row = _find_own(connection, budget)
        values = _columns(connection, data)
        _check_limits({**row._asdict(), **values})
        marked = budgets.change(connection, row.id, values, now=now)
        view = _views(connection, [_find(connection, row.id)])[0]
    services.announce(*marked)
    return view


@delete("/v1/budgets/{budget:str}", opt=OPERATE_ALL, status_code=HTTP_200_OK, sync_to_thread=True)
def delete_budget(services: NamedDependency[Services], budget: FromPath[str]) -> BudgetView:
    """Delete a budget; its machines are then bound by their other budgets only."""
    now = services.clock.now()
    with services.database.write() as connection:
        row = _find_own(connection, budget)
        view = _views(connection, [row])[0]
        marked = budgets.remove(connection, row.id, now=now)
    services.announce(*marked)
    return view


ROUTES = [list_budgets, create_budget, show_budget, change_budget, delete_budget]


def _find(connection: Connection, name: str) -> Row[Any]:
    row = budgets.find(connection, name) if "\x00" not in name else None
    if row is None:
        raise not_found(f"there is no budget {name!r}; list them with GET /v1/budgets")
    return row


def _find_own(connection: Connection, name: str) -> Row[Any]:
    """A budget that an operator made."""
    row = _find(connection, name)
    if row.group_id:
        raise conflict("this is a group's own budget: change its policy's max_batch_percent")
    return row


def _columns(connection: Connection, data: BudgetNew | BudgetPatch) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in ("max_down", "min_available"):
        limit = getattr(data, name)
        if limit is not UNSET and limit is not None:
            values[name] = limit
    if isinstance(data, BudgetPatch) and len(values) == 1:
        values |= {name: None for name in ("max_down", "min_available") if name not in values}
    for name in ("percent", "per_zone", "rate"):
        value = getattr(data, name)
        if value is not UNSET:
            values[name] = int(value)
    if data.rate_period_s is not UNSET:
        values["rate_period_us"] = data.rate_period_s * SECOND_US
    if data.selector is not UNSET:
        values["selector"] = _selector(connection, data.selector)
    return values


def _selector(connection: Connection, body: SelectorBody) -> str:
    ids = groups.ids_by_name(connection, body.groups)
    missing = [name for name in body.groups if name not in ids]
    if missing:
        raise invalid(f"selector.groups: there is no group {missing[0]!r}")
    selector = Selector(
        groups=tuple(ids[name] for name in body.groups), zones=body.zones, hosts=body.hosts
    )
    return msgspec.json.encode(selector).decode()


def _check_limits(values: dict[str, Any]) -> None:
    max_down, min_available = values.get("max_down"), values.get("min_available")
    rate, period = values.get("rate") or 0, values.get("rate_period_us") or 0
    if max_down is not None and min_available is not None:
        raise invalid("set one of max_down and min_available, not both")
    if max_down is None and min_available is None and not rate:
        raise invalid("set max_down, min_available or a rate: a budget without one limits nothing")
    if values.get("percent") and (max_down or min_available or 0) > 100:
        raise invalid("percent: the limit is a percentage, set 0 to 100")
    if bool(rate) != bool(period):
        raise invalid("rate and rate_period_s belong together: set both, or neither")


def _views(connection: Connection, rows: Sequence[Row[Any]]) -> list[BudgetView]:
    claimed = budgets.claimed(connection, [row.id for row in rows])
    wanted = {row.group_id for row in rows if row.group_id}
    for row in rows:
        wanted.update(parse_selector(row.selector).groups)
    names = {i: name for i, (name, _) in groups.read_names(connection, sorted(wanted)).items()}
    views = []
    for row in rows:
        selector = parse_selector(row.selector)
        size, used = budgets.usage(connection, row)
        views.append(
            BudgetView(
                id=row.id,
                name=row.name,
                group=names.get(row.group_id) if row.group_id else None,
                selector={
                    "groups": [names.get(group, group) for group in selector.groups],
                    "zones": list(selector.zones),
                    "hosts": list(selector.hosts),
                },
                max_down=row.max_down,
                min_available=row.min_available,
                percent=bool(row.percent),
                per_zone=bool(row.per_zone),
                rate=row.rate,
                rate_period_s=row.rate_period_us // SECOND_US,
                size=size,
                used=used,
                claimed=claimed.get(row.id, 0),
                created_at=from_us(row.created_at),
            )
        )
    return views

"""Which machines a budget selects, as SQL conditions on machine columns.

A selector is JSON: `{"groups": ["g_1"], "zones": ["1"], "hosts": ["h1"]}`; a machine must match
each key that is there.  A group's own budget names the group instead.
"""

from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, true

from upkeep.store.tables import machines

KEYS = {"groups": "group_id", "zones": "zone", "hosts": "host"}
VALUES_MAX = 1_000


class Selector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Empty tuples select by nothing; all empty selects every machine."""

    groups: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def parse_selector(text: str) -> Selector:
    return msgspec.json.decode(text.encode(), type=Selector)


def condition(budget: Row[Any]) -> ColumnElement[bool]:
    """The machines of a budget row."""
    selector = parse_selector(budget.selector)
    if budget.group_id:
        selector = Selector(groups=(budget.group_id,))
    where: ColumnElement[bool] = true()
    for key, column in KEYS.items():
        values = getattr(selector, key)
        if values:
            where = where & machines.c[column].in_(values)
    return where


def selects(budget: Row[Any], machine: Any) -> bool:
    """Whether a budget row selects a machine (anything with group_id, zone and host)."""
    if budget.group_id:
        return bool(budget.group_id == machine.group_id)
    selector = parse_selector(budget.selector)
    return all(
        not getattr(selector, key) or getattr(machine, column) in getattr(selector, key)
        for key, column in KEYS.items()
    )


def may_select_group(budget: Row[Any], group: str) -> bool:
    """False if no machine of the group can be selected."""
    if budget.group_id:
        return bool(budget.group_id == group)
    selector = parse_selector(budget.selector)
    return not selector.groups or group in selector.groups

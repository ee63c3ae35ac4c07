"""One group that cannot be planned keeps no other waiting."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.core.story import a_group

from upkeep.core.model import GroupId
from upkeep.engine import loop
from upkeep.engine.clock import EngineClock
from upkeep.engine.loop import Engine
from upkeep.sim.kernel import Kernel, moment
from upkeep.sim.memory import MemoryStore
from upkeep.sim.memory_operator import MemoryOperator
from upkeep.sim.replica import WallClock

BAD, GOOD = GroupId("bad"), GroupId("good")


def two_groups() -> tuple[MemoryStore, Engine]:
    store = MemoryStore()
    operator = MemoryOperator(store)
    for key in (BAD, GOOD):
        operator.add_group(a_group(id=key, name=key), now=moment(0))
    return store, Engine(store, EngineClock(WallClock(Kernel()), store))


def raises(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    "mistake",
    [ValueError("year 10000"), OverflowError("date"), KeyError("m_1"), AssertionError("not so")],
)
@pytest.mark.parametrize("where", ["read", "plan"])
def test_a_group_with_our_mistake_is_parked_and_the_others_are_planned(
    monkeypatch: pytest.MonkeyPatch, mistake: Exception, where: str
) -> None:
    store, engine = two_groups()
    read, plan = store.read_group, loop.plan_group

    def read_group(group: GroupId, **named: Any) -> Any:
        return raises(mistake)() if group == BAD and where == "read" else read(group, **named)

    def plan_group(snapshot: Any, **named: Any) -> Any:
        bad = snapshot.group.id == BAD and where == "plan"
        return raises(mistake)() if bad else plan(snapshot, **named)

    monkeypatch.setattr(store, "read_group", read_group)
    monkeypatch.setattr(loop, "plan_group", plan_group)
    assert engine.tick() == 1
    assert store.groups[BAD].parked_until is not None
    assert type(mistake).__name__ in store.groups[BAD].story[-1]
    assert store.groups[GOOD].parked_until is None


def test_a_store_that_is_away_is_no_mistake_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    store, engine = two_groups()
    monkeypatch.setattr(store, "read_group", raises(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        engine.tick()
    assert store.groups[BAD].parked_until is None

"""The engine's clock: since when it can have seen anything, and what a plan is told of it."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.core.story import a_group

from upkeep.core.snapshot import Plan, Snapshot
from upkeep.engine import loop
from upkeep.engine.clock import EngineClock
from upkeep.sim.kernel import moment
from upkeep.sim.memory import MemoryStore
from upkeep.sim.memory_operator import MemoryOperator

HOUR = timedelta(hours=1)


class Wall:
    """A wall clock that a test moves, over a monotonic one that it moves apart."""

    def __init__(self) -> None:
        self.wall, self.ran = moment(0), timedelta(0)

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.ran.total_seconds()

    def go_on(self, time: timedelta) -> None:
        self.wall += time
        self.ran += time


def test_a_process_has_seen_nothing_before_it_began() -> None:
    wall, store = Wall(), MemoryStore()
    first = EngineClock(wall, store)
    wall.go_on(HOUR)
    assert (first.now(), first.awake_since) == (moment(3_600), moment(0))
    second = EngineClock(wall, store)
    assert second.awake_since == second.now() == moment(3_600)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_an_accepted_step_forward_is_time_in_which_nobody_looked(step: timedelta) -> None:
    wall = Wall()
    clock = EngineClock(wall, MemoryStore())
    wall.go_on(HOUR)
    wall.wall += step
    assert clock.awake_since == moment(0)
    clock.accept_step()
    assert clock.awake_since == (wall.wall if step > timedelta(0) else moment(0))


def test_each_plan_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, store = Wall(), MemoryStore()
    wall.go_on(HOUR)
    MemoryOperator(store).add_group(a_group(), now=wall.now())
    told: list[Any] = []

    def plan_group(snapshot: Snapshot, *, now: datetime) -> Plan:
        told.append(snapshot.awake_since)
        return Plan(group=snapshot.group)

    monkeypatch.setattr(loop, "plan_group", plan_group)
    loop.Engine(store, EngineClock(wall, store)).tick()
    assert told == [moment(3_600)]

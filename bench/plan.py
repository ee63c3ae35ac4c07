"""`plan_group` over a group of 1,000 with a batch to form.

Sketch: 1,000 machines × ~4 µs (order, a hold each, a task each) ⇒ about 4 ms; budget 10 ms.
"""

import statistics
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from bench.figure import Figure
from upkeep.core.model import Budget, BudgetId, Group, GroupId, GroupKind, Machine, MachineId
from upkeep.core.plan import plan_group
from upkeep.core.snapshot import Snapshot
from upkeep.core.version import ImageVersion

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROUNDS = 30


def group_of(size: int) -> Snapshot:
    """A healthy group on 1.0.0 for which 1.0.1 has just been published."""
    return Snapshot(
        group=Group(
            id=GroupId("g_1"),
            name="web",
            region="local",
            kind=GroupKind.SCALE_SET,
            capacity=size,
            baked="1.0.0",
            next_ordinal=size,
        ),
        machines=tuple(
            Machine(
                id=MachineId(f"m_g_1_{n:05}"),
                name=f"web-{n}",
                zone=str(n % 3),
                update_domain=n % 5,
                image="1.0.0",
                boots=1,
                health_since=NOW,
            )
            for n in range(size)
        ),
        versions=(ImageVersion(version="1.0.0"), ImageVersion(version="1.0.1")),
        budgets=(
            Budget(id=BudgetId("b_1"), name="web", max_down=20, percent=True, size={"": size}),
        ),
    )


def _median_ms(snapshot: Snapshot, now: datetime) -> float:
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        plan_group(snapshot, now=now)
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times)


def measure() -> list[Figure]:
    fresh = group_of(1_000)
    plan = plan_group(fresh, now=NOW)
    rolling = replace(
        fresh, group=plan.group, rollouts=plan.rollouts, tasks=plan.tasks, claims=plan.claims
    )
    return [
        Figure(
            name="plan_group_1000_ms",
            value=_median_ms(fresh, NOW),
            unit="ms",
            budget=10,
            note=f"a rollout begins: freeze, order, first batch, holds; median of {ROUNDS}",
        ),
        Figure(
            name="plan_group_1000_rolling_ms",
            value=_median_ms(rolling, NOW + timedelta(seconds=5)),
            unit="ms",
            budget=10,
            note=f"a batch is open: settle, holds; median of {ROUNDS}",
        ),
    ]

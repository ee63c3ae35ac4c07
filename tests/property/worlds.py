"""Whole groups and what happens to them, drawn by Hypothesis, and played forward.

A `World` is a story plus a list of happenings.  `play` applies them in turn and shows every plan,
with the snapshot that it was made from, to one watcher: a function that asserts a property.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from tests.core.story import Story, a_group, machines_of, share

from upkeep.core.model import Budget, BudgetId, GroupKind, Health, Lifecycle, Verb
from upkeep.core.plan import plan_group
from upkeep.core.policy import RollingPolicy
from upkeep.core.snapshot import Interval, Plan, Snapshot

VERSIONS = ("1.0.1", "1.0.2", "1.0.3")
# What happens, two details of it, and how many minutes pass before the next one.
Happening = tuple[str, Any, Any, float]
Watcher = Callable[[Snapshot, Plan, "Played"], None]


class Played(Story):
    """A story that shows each of its plans to a watcher before it is written."""

    watch: Watcher

    def rest(self) -> None:
        snapshot = self.snapshot()
        plan = plan_group(snapshot, now=self.now)
        self.write(plan)
        self.watch(snapshot, plan, self)
        self.start(plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    size: int
    zones: int
    update_domains: int
    scale_set: bool
    policy: RollingPolicy
    budgets: tuple[Budget, ...]
    happenings: tuple[Happening, ...]

    def story(self, watch: Watcher) -> Played:
        kind = GroupKind.SCALE_SET if self.scale_set else GroupKind.AVAILABILITY_SET
        zones = tuple("abc"[: self.zones])
        group = a_group(
            kind=kind, capacity=self.size, baked="1.0.0", zones=zones, next_ordinal=self.size
        )
        machines = machines_of(self.size, zones=zones, update_domains=self.update_domains)
        story = Played(
            machines,
            versions=("1.0.0", "1.0.1"),
            group=group,
            policy=self.policy,
            budgets=self.budgets,
        )
        story.watch = watch
        return story


def play(world: World, watch: Watcher) -> Played:
    story = world.story(watch)
    story.rest()
    for happening in world.happenings:
        apply_happening(story, happening)
        story.rest()
        story.run_on(minutes=happening[3])
    return story


def apply_happening(story: Story, happening: Happening) -> None:
    """One thing that the world, a person or a catalogue does."""
    kind, first, second, _ = happening
    name = _machine(story, first)
    match kind:
        case "health" if name:
            story.see(name, second)
        case "publish":
            story.publish(first)
        case "exclude" if first in story.versions:
            story.publish(first, excluded=second)
        case "call" if name:
            story.call(second[0], name, force=second[1])
        case "start":
            story.call(Verb.REPLACE_OS_DISK, target=first or "", force=second)
        case "cancel":
            for rollout_id, rollout in story.rollouts.items():
                if rollout.ended_at is None:
                    story.rollouts[rollout_id] = replace(rollout, cancel_requested=True)
        case "approve" if name:
            for number in range(1, len(story.rollouts) + 1):
                story.approve(*([] if second else [name]), number=number)
        case "pause":
            story.group = replace(story.group, paused=True)
            story.after(first, lambda: _resume(story))
        case "leave" if name:
            story.change(name, **{second: True})
        case "zone":
            for machine in list(story.machines.values()):
                if machine.zone == first:
                    story.see(machine.name, Health.UNKNOWN if second else Health.HEALTHY)
        case "clock":
            story.clock_stepped = True
            story.after(first, lambda: _agree(story))
        case "capacity":
            story.group = replace(story.group, capacity=first)
        case "remove" if name:
            story.remove(name)
        case "refuse" if name:
            story.refused[(name, second[0])] = second[1]
        case "ill on" if name:
            story.ill_on.add((name, second))
        case "bad version":
            story.ill_on |= {(m.name, first) for m in story.machines.values()}
        case "blackout":
            opens = story.now + timedelta(minutes=second)
            closes = opens + timedelta(minutes=first)
            story.blackouts = (*story.blackouts, Interval(opens=opens, closes=closes))
        case _:
            pass  # It happens to a machine that is not there (any more).


def _resume(story: Story) -> None:
    story.group = replace(story.group, paused=False)


def _agree(story: Story) -> None:
    story.clock_stepped = False


def _machine(story: Story, number: Any) -> str:
    """The number-th machine of those that are there; a missing one happens to nobody."""
    there = sorted(m.id for m in story.machines.values() if m.lifecycle is not Lifecycle.DELETED)
    return there[number % len(there)] if there and isinstance(number, int) else ""


def heal(story: Story) -> None:
    """All faults end, nobody holds anything, and a version that nobody has tried is there."""
    story.refused.clear()
    story.ill_on.clear()
    story.clock_stepped = False
    story.blackouts = ()
    story.windows = None
    story.budgets = (share(20),)
    story.group = replace(story.group, paused=False)
    under_way = {a.machine for key, a in story.actions.items() if key not in story.outcomes}
    for machine in list(story.machines.values()):
        if machine.lifecycle is Lifecycle.PRESENT and machine.id not in under_way:
            story.see(machine.id, Health.HEALTHY)
        story.change(machine.id, protected=False, opted_out=False, skip=False)
    story.publish("2.0.0")
    story.rest()


nothing = st.none()
minutes = st.sampled_from([0.5, 1, 2, 5, 7, 15, 31, 90, 600])
pauses = st.sampled_from([0, 0.5, 1, 1.5, 2, 3, 5, 8, 16, 40, 400])
machine = st.integers(0, 11)
version = st.sampled_from(VERSIONS)
health = st.sampled_from(list(Health))
call_verbs = st.sampled_from([Verb.RESTART, Verb.REIMAGE, Verb.STOP, Verb.START, Verb.DELETE])
refusals = st.tuples(
    st.sampled_from(
        [Verb.REPLACE_OS_DISK, Verb.SWITCH_BACK, Verb.CREATE, Verb.RESTART, Verb.DELETE]
    ),
    st.sampled_from(["failed", "bad_image"]),
)


def _happening(kind: str, first: Any, second: Any = nothing) -> st.SearchStrategy[Happening]:
    return st.tuples(st.just(kind), first, second, pauses)


happenings = st.one_of(
    _happening("nothing", nothing),
    _happening("publish", version),
    _happening("health", machine, health),
    _happening("health", machine, health),
    _happening("ill on", machine, version),
    _happening("bad version", version),
    _happening("bad version", version),
    _happening("call", machine, st.tuples(call_verbs, st.booleans())),
    _happening("exclude", version, st.booleans()),
    _happening("start", st.one_of(st.none(), version), st.booleans()),
    _happening("cancel", nothing),
    _happening("approve", machine, st.booleans()),
    _happening("pause", minutes),
    _happening("leave", machine, st.sampled_from(["protected", "opted_out", "skip"])),
    _happening("zone", st.sampled_from("abc"), st.booleans()),
    _happening("clock", minutes),
    _happening("capacity", st.integers(0, 12)),
    _happening("remove", machine),
    _happening("refuse", machine, refusals),
    _happening("blackout", minutes, minutes),
)

policies = st.builds(
    RollingPolicy,
    max_batch_percent=st.sampled_from([5, 20, 34, 50, 100]),
    max_unhealthy_percent=st.sampled_from([20, 50, 100]),
    max_unhealthy_upgraded_percent=st.sampled_from([0, 20, 50, 100]),
    pause_between_batches=st.sampled_from([timedelta(0), timedelta(minutes=3)]),
    bake_time=st.sampled_from([timedelta(0), timedelta(minutes=10)]),
    notice=st.sampled_from([timedelta(0), timedelta(minutes=15)]),
    drain_timeout=st.sampled_from([timedelta(0), timedelta(minutes=2)]),
    cross_zone=st.booleans(),
    prioritize_unhealthy=st.booleans(),
    auto_rollback=st.booleans(),
    rollback_on_breach=st.booleans(),
)


def _limit(name: str) -> st.SearchStrategy[Budget]:
    return st.builds(
        Budget,
        id=st.just(BudgetId(f"bu_{name}")),
        name=st.just(name),
        max_down=st.integers(0, 4),
        per_zone=st.booleans(),
        size=st.just({}),
        rate=st.sampled_from([0, 0, 1, 3]),
        rate_period=st.just(timedelta(minutes=10)),
    )


def _floor(name: str) -> st.SearchStrategy[Budget]:
    return st.builds(
        Budget,
        id=st.just(BudgetId(f"bu_{name}")),
        name=st.just(name),
        min_available=st.integers(0, 100),
        percent=st.just(True),
        per_zone=st.booleans(),
        size=st.just({}),
    )


def _budgets(limits: Iterable[Budget]) -> tuple[Budget, ...]:
    return tuple(sorted(limits, key=lambda b: b.id))


budgets = st.builds(
    lambda percent, others: _budgets([share(percent), *others]),
    st.sampled_from([20, 34, 50, 100]),
    st.one_of(
        st.just([]), st.tuples(_limit("service")), st.tuples(_limit("tenant"), _floor("zone"))
    ),
)

worlds = st.builds(
    World,
    size=st.integers(1, 12),
    zones=st.integers(1, 3),
    update_domains=st.integers(1, 2),
    scale_set=st.booleans(),
    policy=policies,
    budgets=budgets,
    happenings=st.lists(happenings, min_size=3, max_size=20).map(tuple),
)

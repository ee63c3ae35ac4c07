"""The same happenings on the simulator's store and on a real one: the same answers, the same rows.

The planner is the real one, so its plans are those that a store meets; sightings, outcomes, old
fences, operators and the passing of time come in any order.  Two things may differ:

- a budget's version: a real store may raise it where nothing moved (a plan is then made again for
  nothing), and must wherever the simulated one does;
- who is due: a real store may wake more groups, never fewer, or the simulator would find alive
  what is stuck.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fleet_stores import (
    START,
    Backend,
    MemoryBackend,
    a_budget,
    a_group,
    claim,
    machines_of,
    new_postgres,
    new_sqlite,
    read,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from upkeep.core.model import GroupId, GroupKind, Health, MachineId, Verb
from upkeep.core.plan import plan_group
from upkeep.core.policy import RollingPolicy
from upkeep.core.snapshot import OperatorCall, Plan, Snapshot
from upkeep.core.version import ImageVersion
from upkeep.engine.fleet_store import ActionResult, LeasedAction, Sighting
from upkeep.ports import MachineStatus, Power

GROUPS = (GroupId("g_a"), GroupId("g_b"))
MINUTE = timedelta(minutes=1)


@dataclass
class Both:
    """The simulated store and a real one, in step."""

    fake: Backend
    real: Backend
    now: datetime = START
    calls: int = 0
    leased: list[LeasedAction] = field(default_factory=list)
    drains: list[tuple[MachineId, str]] = field(default_factory=list)
    versions: dict[str, tuple[int, int]] = field(default_factory=dict)

    def both(self) -> tuple[Backend, Backend]:
        return self.fake, self.real

    def begin(self, policy: RollingPolicy) -> None:
        for backend in self.both():
            _make_fleet(backend, policy)

    def same(self, step: Any) -> Any:
        """What both answer to one step."""
        fake, real = (step(backend) for backend in self.both())
        assert fake == real
        return fake

    def snapshots(self, group: GroupId) -> tuple[Snapshot, Snapshot]:
        fake, real = (read(backend, group, now=self.now)[0] for backend in self.both())
        return fake, real

    def machine(self, number: int) -> MachineId | None:
        """The number-th of all machines, as long as there are any."""
        ids = [m.id for group in GROUPS for m in self.snapshots(group)[0].machines]
        return ids[number % len(ids)] if ids else None

    def check(self) -> None:
        for group in GROUPS:
            fake, real = self.snapshots(group)
            self._check_versions(group, fake, real)
            for name in fake.__slots__:
                assert getattr(_plain(fake), name) == getattr(_plain(real), name), name
        watched = [
            sorted(backend.store.watched(), key=lambda w: w.machine) for backend in self.both()
        ]
        assert watched[0] == watched[1]
        for moment in (self.now, self.now + MINUTE, self.now + 100 * MINUTE):
            fake_due, real_due = (set(b.store.due_groups(moment, 10)) for b in self.both())
            assert fake_due <= real_due

    def _check_versions(self, group: GroupId, fake: Snapshot, real: Snapshot) -> None:
        for one, other in zip(fake.budgets, real.budgets, strict=True):
            key = f"{group} {one.id}"
            before = self.versions.get(key, (one.version, other.version))
            assert one.version == before[0] or other.version > before[1], key
            self.versions[key] = (one.version, other.version)


def _make_fleet(backend: Backend, policy: RollingPolicy) -> None:
    """A scale set over two zones and an availability set in one, under two common budgets."""
    scale_set = a_group(
        "a",
        kind=GroupKind.SCALE_SET,
        capacity=4,
        zones=("1", "2"),
        policy=policy,
        baked="1.0.0",
        next_ordinal=4,
    )
    loose = a_group("b", policy=policy, fault_domains=2)
    backend.add_group(
        scale_set, machines_of(scale_set, 4, since=START, zones=("1", "2")), now=START
    )
    backend.add_group(loose, machines_of(loose, 4, since=START, host="h1"), now=START)
    backend.add_budget(a_budget("a", max_down=50, percent=True), "g_a", own=True, now=START)
    backend.add_budget(a_budget("b", max_down=50, percent=True), "g_b", own=True, now=START)
    rate: dict[str, Any] = {"per_zone": True, "rate": 4, "rate_period": 5 * MINUTE}
    backend.add_budget(a_budget("team", max_down=2, **rate), "g_a", "g_b", now=START)
    backend.add_budget(a_budget("zone", min_available=1), "g_a", "g_b", zone="2", now=START)
    backend.publish(ImageVersion(version="1.0.0"), now=START)


def _plain(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, budgets=tuple(replace(b, version=0) for b in snapshot.budgets))


# What can happen.


def tick(both: Both) -> None:
    """Each group is planned from its own store's rows, and the same is decided."""
    for group in GROUPS:
        plans: list[Plan] = []
        written = []
        for backend in both.both():
            snapshot, mark = read(backend, group, now=both.now)
            plan = plan_group(snapshot, now=both.now)
            plans.append(replace(plan, budget_versions={}))
            written.append(backend.store.commit_plan(plan, mark, now=both.now))
        assert plans[0] == plans[1]
        assert written == [True, True]
        both.drains += [(a.machine, a.key) for a in plans[0].actions if a.verb is Verb.DRAIN]


def tick_late(both: Both) -> None:
    """A planner read, another was faster, and the first writes what nobody wants any more."""
    for backend in both.both():
        snapshot, mark = read(backend, GROUPS[0], now=both.now)
        assert backend.store.commit_plan(Plan(group=snapshot.group), mark, now=both.now)
        plan = plan_group(snapshot, now=both.now)
        assert not backend.store.commit_plan(plan, mark, now=both.now)


def wait(both: Both, seconds: int) -> None:
    both.now += timedelta(seconds=seconds)


def see(both: Both, number: int, health: Health, is_late: bool) -> None:
    machine = both.machine(number)
    if machine is None:
        return
    watched = both.same(lambda b: b.store.watched([machine]))
    watch_from = watched[0].watch_from if watched else START
    if is_late:
        watch_from -= MINUTE
    sighting = Sighting(health=health, watch_from=watch_from)
    both.same(lambda b: b.store.observe(machine, sighting, now=both.now))


def sight(both: Both, number: int, sighting: Sighting) -> None:
    machine = both.machine(number)
    if machine is not None:
        both.same(lambda b: b.store.observe(machine, sighting, now=both.now))


def take(both: Both, limit: int) -> None:
    both.leased += both.same(lambda b: claim(b, now=both.now, limit=limit))


def _status(both: Both, leased: LeasedAction, power: Power, starts: int) -> MachineStatus:
    machines = list(both.snapshots(leased.action.group)[0].machines)
    known = next((m for m in machines if m.id == leased.action.machine), None)
    return MachineStatus(
        name=leased.machine_name,
        power=power,
        image_version=leased.action.version or (known.image if known else ""),
        kept_version=known.image if known else "",
        model=leased.action.model or (known.model if known else ""),
        kept_model=known.model if known else "",
        address="10.0.0.9",
        boots=max(0, (known.boots if known else 0) + starts),
    )


def finish(both: Both, number: int, succeeded: bool, power: Power, starts: int) -> None:
    """One of all leases that were ever given, so that many are old."""
    if both.leased:
        leased = both.leased[-1 - number % len(both.leased)]
        result = ActionResult(
            succeeded=succeeded,
            kind="" if succeeded else "failed",
            status=_status(both, leased, power, starts),
        )
        key, fence = leased.action.key, leased.fence
        both.same(lambda b: b.store.finish_action(key, fence=fence, result=result, now=both.now))


def give_back(both: Both, number: int, seconds: int) -> None:
    if both.leased:
        leased = both.leased[-1 - number % len(both.leased)]
        until = both.now + timedelta(seconds=seconds)
        result = ActionResult(succeeded=False, kind="timed_out", retryable=True)
        for backend in both.both():
            backend.store.retry_action(
                leased.action.key, fence=leased.fence, result=result, not_before=until
            )


def beat(both: Both, number: int, seconds: int) -> None:
    if both.leased:
        leased = both.leased[-1 - number % len(both.leased)]
        until = both.now + timedelta(seconds=seconds)
        both.same(
            lambda b: b.store.extend_lease(leased.action.key, fence=leased.fence, lease_until=until)
        )


def drained(both: Both) -> None:
    if both.drains:
        machine, key = both.drains.pop()
        for backend in both.both():
            backend.answered(machine, key, now=both.now)


def work(both: Both) -> None:
    """What is going well: drained, performed, seen healthy, planned."""
    tick(both)
    while both.drains:
        drained(both)
    before = len(both.leased)
    take(both, 10)
    for leased in both.leased[before:]:
        power = Power.OFF if leased.action.verb is Verb.STOP else Power.RUNNING
        power = Power.ABSENT if leased.action.verb is Verb.DELETE else power
        result = ActionResult(succeeded=True, status=_status(both, leased, power, 1))
        key, fence, machine = leased.action.key, leased.fence, leased.action.machine
        both.same(
            lambda b, k=key, f=fence, r=result: b.store.finish_action(
                k, fence=f, result=r, now=both.now
            )
        )
        well = Sighting(health=Health.HEALTHY)
        both.same(lambda b, m=machine, s=well: b.store.observe(m, s, now=both.now))
    wait(both, 20)
    tick(both)


def publish(both: Both, version: str, excluded: bool) -> None:
    for backend in both.both():
        backend.publish(ImageVersion(version=version, excluded=excluded), now=both.now)


def ask(both: Both, number: int, verb: Verb, force: bool) -> None:
    machine = both.machine(number)
    if machine is None:
        return
    both.calls += 1
    group = f"g_{machine.split('_')[-2]}"
    machines = () if verb is Verb.REPLACE_OS_DISK else (machine,)
    call = OperatorCall(id=f"ca_{both.calls:04}", verb=verb, machines=machines, force=force)
    for backend in both.both():
        backend.add_call(group, call, now=both.now)


def protect(both: Both, number: int, protected: bool) -> None:
    machine = both.machine(number)
    if machine is not None:
        for backend in both.both():
            backend.protect(machine, protected, now=both.now)


def pause(both: Both, number: int, paused: bool) -> None:
    open_ones = [r.id for group in GROUPS for r in both.snapshots(group)[0].rollouts]
    if open_ones:
        for backend in both.both():
            backend.pause(open_ones[number % len(open_ones)], paused, now=both.now)


def approve(both: Both, number: int, every: bool) -> None:
    open_ones = [r.id for group in GROUPS for r in both.snapshots(group)[0].rollouts]
    machine = both.machine(number)
    if open_ones and machine is not None:
        chosen = () if every else (machine,)
        rollout = open_ones[number % len(open_ones)]
        both.same(lambda b: b.approve(rollout, *chosen, now=both.now))


def mark(both: Both, group: GroupId) -> None:
    for backend in both.both():
        backend.store.mark_group(group, now=both.now)


def park(both: Both, group: GroupId, seconds: int) -> None:
    for backend in both.both():
        backend.store.park_group(group, trace="…", until=both.now + timedelta(seconds=seconds))


def step_clock(both: Both, seconds: int) -> None:
    moment = both.now + timedelta(seconds=seconds)
    both.same(lambda b: b.store.raise_clock_mark(moment))


NUMBER = st.integers(0, 9)
SECONDS = st.sampled_from([1, 30, 60, 300, 700])
FLAG = st.booleans()
VERSIONS = st.sampled_from(["1.0.0", "1.0.1", "1.0.2"])
SIGHTINGS = st.one_of(
    st.builds(Sighting, image=VERSIONS),
    st.builds(Sighting, boots=st.integers(0, 4)),
    st.builds(Sighting, powered_off=FLAG, address=st.sampled_from(["", "10.0.0.8"])),
    st.builds(Sighting, phase=st.integers(0, 2), skip=FLAG),
)
CALLS = st.sampled_from(
    [Verb.RESTART, Verb.REIMAGE, Verb.STOP, Verb.START, Verb.DELETE, Verb.REPLACE_OS_DISK]
)
HAPPENINGS = st.one_of(
    st.just((work,)),
    st.just((work,)),
    st.just((tick,)),
    st.just((tick_late,)),
    st.tuples(st.just(wait), SECONDS),
    st.tuples(st.just(see), NUMBER, st.sampled_from(Health), FLAG),
    st.tuples(st.just(see), NUMBER, st.just(Health.UNKNOWN), st.just(False)),
    st.tuples(st.just(sight), NUMBER, SIGHTINGS),
    st.tuples(st.just(take), st.integers(1, 3)),
    st.tuples(st.just(finish), NUMBER, FLAG, st.sampled_from(Power), st.integers(-1, 1)),
    st.tuples(st.just(give_back), NUMBER, SECONDS),
    st.tuples(st.just(beat), NUMBER, SECONDS),
    st.just((drained,)),
    st.tuples(st.just(publish), VERSIONS, FLAG),
    st.tuples(st.just(ask), NUMBER, CALLS, FLAG),
    st.tuples(st.just(protect), NUMBER, FLAG),
    st.tuples(st.just(pause), NUMBER, FLAG),
    st.tuples(st.just(approve), NUMBER, FLAG),
    st.tuples(st.just(mark), st.sampled_from(GROUPS)),
    st.tuples(st.just(park), st.sampled_from(GROUPS), SECONDS),
    st.tuples(st.just(step_clock), SECONDS),
)
POLICIES = st.builds(
    RollingPolicy,
    max_batch_percent=st.sampled_from([25, 50, 100]),
    bake_time=st.sampled_from([timedelta(0), MINUTE]),
    notice=st.sampled_from([timedelta(0), MINUTE]),
    drain_timeout=st.sampled_from([timedelta(0), MINUTE]),
    max_surge=FLAG,
    auto_rollback=FLAG,
    needs_approval=FLAG,
)


def play(real: Backend, policy: RollingPolicy, happenings: Sequence[tuple[Any, ...]]) -> None:
    both = Both(fake=MemoryBackend(), real=real)
    both.begin(policy)
    publish(both, "1.0.1", False)
    both.check()
    for happening, *details in happenings:
        happening(both, *details)
        both.check()


def happenings_of(most: int) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    return st.lists(HAPPENINGS, min_size=most // 2, max_size=most)


FIXED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# Two rollouts of one group that end at one moment, in two plans.
SURGE = RollingPolicy(max_batch_percent=50, max_surge=True)
ENDED_TOGETHER: list[tuple[Any, ...]] = [
    *[(tick_late,), (work,), (park, "g_a", 1), (drained,), (tick,), (tick,)],
    (see, 3, Health.UNKNOWN, False),
    *[(work,)] * 26,
]


@settings(FIXED, max_examples=10)
@example(policy=SURGE, happenings=ENDED_TOGETHER)
@given(policy=POLICIES, happenings=happenings_of(24))
def test_sqlite_is_the_simulators_store(
    sqlite_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
    policy: RollingPolicy,
    happenings: list[tuple[Any, ...]],
) -> None:
    with closing(new_sqlite(sqlite_template, tmp_path_factory.mktemp("fleet"))) as real:
        play(real, policy, happenings)


@settings(FIXED, max_examples=5)
@given(policy=POLICIES, happenings=happenings_of(16))
def test_postgresql_is_the_simulators_store(
    postgres_url: str, policy: RollingPolicy, happenings: list[tuple[Any, ...]]
) -> None:
    with closing(new_postgres(postgres_url)) as real:
        play(real, policy, happenings)


@pytest.mark.slow
@settings(FIXED, max_examples=60)
@given(policy=POLICIES, happenings=happenings_of(60))
def test_sqlite_is_the_simulators_store_in_long_stories(
    sqlite_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
    policy: RollingPolicy,
    happenings: list[tuple[Any, ...]],
) -> None:
    with closing(new_sqlite(sqlite_template, tmp_path_factory.mktemp("fleet"))) as real:
        play(real, policy, happenings)

"""What a snapshot carries: everything of the group, what budgets count elsewhere, lost domains."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from fleet_stores import (
    START,
    Backend,
    a_budget,
    a_claim,
    a_group,
    a_rollout,
    a_task,
    at,
    commit,
    look,
    machines_of,
    read,
)

from upkeep.core.alarm import Alarm, AlarmAction, AlarmState
from upkeep.core.model import (
    Budget,
    Failure,
    GroupId,
    GroupKind,
    Health,
    Lifecycle,
    MachineId,
    Rollout,
    RolloutCode,
    RolloutState,
    StartedBy,
    System,
    UpgradeMode,
    Verb,
)
from upkeep.core.policy import RollingPolicy
from upkeep.core.snapshot import Domain, Interval, OperatorCall, Plan
from upkeep.core.task import TaskState
from upkeep.core.version import ImageVersion, ReplicationState
from upkeep.engine.fleet_store import Sighting

A, B = a_group("a"), a_group("b")

ODD_POLICY = RollingPolicy(
    max_batch_percent=33,
    max_unhealthy_percent=7,
    max_unhealthy_upgraded_percent=0,
    pause_between_batches=timedelta(milliseconds=1),
    health_wait=timedelta(seconds=90),
    bake_time=timedelta(hours=2),
    notice=timedelta(minutes=15),
    drain_timeout=timedelta(seconds=1),
    cross_zone=True,
    prioritize_unhealthy=False,
    auto_rollback=False,
    rollback_on_breach=False,
    max_surge=True,
    checkpoints=(10, 50),
    checkpoint_bake=timedelta(minutes=20),
    ramp=timedelta(days=2),
)


def test_every_field_of_a_group_and_its_machines_comes_back(backend: Backend) -> None:
    group = a_group(
        kind=GroupKind.SCALE_SET,
        capacity=3,
        zones=("2", "1"),
        update_domains=5,
        fault_domains=2,
        auto_upgrade=False,
        paused=True,
        policy=ODD_POLICY,
        baked="1.0.0",
        model="m2",
        baked_model="m1",
        upgrade_mode=UpgradeMode.ROLLING,
        next_ordinal=7,
        next_rollout=9,
        quota=12,
    )
    odd = timedelta(microseconds=1)
    (plain,) = machines_of(group, 1, since=START)
    machine = replace(
        plain,
        zone="2",
        update_domain=4,
        fault_domain=1,
        host="h1",
        lifecycle=Lifecycle.STOPPED,
        image="1.0.1",
        kept="1.0.0",
        model="m1",
        kept_model="m0",
        boots=3,
        health=Health.UNKNOWN,
        health_since=START + odd,
        powered_off=True,
        lost_at=START + 2 * odd,
        back_at=START + 3 * odd,
        worked_at=START + 4 * odd,
        protected=True,
        scale_in_protected=True,
        opted_out=True,
        phase=0,
        skip=True,
    )
    backend.add_group(group, [machine], now=START)
    snapshot = look(backend)
    assert (snapshot.group, snapshot.machines) == (group, (machine,))
    assert backend.store.read_group(group.id, now=START, clock_stepped=True) == (
        replace(snapshot, clock_stepped=True),
        read(backend, now=START)[1],
    )


def test_every_field_of_rollouts_and_tasks_comes_back(backend: Backend) -> None:
    backend.add_group(A, machines_of(A, 2, since=START), now=START)
    rollout = a_rollout(
        A,
        1,
        now=at(1),
        system=System.OPERATOR,
        verb=Verb.RESTART,
        target="",
        policy=ODD_POLICY,
        size=2,
        state=RolloutState.ROLLING_BACK,
        started_by=StartedBy.USER,
        begun_at=at(2),
        batch=2,
        batch_closed_at=at(3),
        force=True,
        guilty=True,
        code=RolloutCode.FAILED_MACHINES,
        evidence="2 of 2 « ill »",
    )
    tasks = [
        a_task(rollout, "m_a_0", now=at(1), state=TaskState.VERIFYING),
        a_task(
            rollout,
            "m_a_1",
            now=at(2),
            state=TaskState.ROLLING_BACK,
            clock_from=at(3),
            batch=2,
            not_before=at(4),
            previous="1.0.0",
            boots_before=5,
            repair=True,
            attempt=3,
            failure=Failure.WRONG_VERSION,
            healed=True,
            surge=True,
            stand_in=MachineId("m_a_0"),
            detail="it runs 1.0.0",
        ),
    ]
    assert commit(backend, now=at(1), rollouts=(rollout,), tasks=tuple(tasks))
    snapshot = look(backend)
    assert (snapshot.rollouts, snapshot.tasks) == ((rollout,), tuple(tasks))


def test_what_has_an_id_is_in_id_order_whatever_the_databases_language(backend: Backend) -> None:
    ids = ["m_a_0", "m_a1", "m_aB", "m_ab", "m_a10"]
    plain = machines_of(A, 1, since=START)[0]
    machines = [replace(plain, id=MachineId(name), name=name) for name in ids]
    backend.add_group(A, machines, now=START)
    backend.add_budget(a_budget("x_0"), A.id, now=START)
    backend.add_budget(a_budget("x0"), A.id, now=START)
    for version in ("1.0.9", "1.0.10", "1.0.1"):
        backend.publish(ImageVersion(version=version), now=START)
    rollouts = [a_rollout(A, n, now=at(20 - n)) for n in (1, 2, 10)]
    tasks = [a_task(rollout, name, now=at(1)) for rollout in rollouts for name in ids]
    claims = [a_claim(b, name, rollouts[0], now=at(1)) for b in ("x_0", "x0") for name in ids]
    parts: dict[str, Any] = {"rollouts": rollouts, "tasks": tasks, "claims": claims}
    assert commit(backend, now=at(1), **{name: tuple(rows) for name, rows in parts.items()})
    snapshot = look(backend)
    assert [m.id for m in snapshot.machines] == sorted(ids)
    assert [r.id for r in snapshot.rollouts] == sorted(r.id for r in rollouts)
    assert [(t.rollout, t.machine) for t in snapshot.tasks] == sorted(
        (t.rollout, t.machine) for t in tasks
    )
    assert [b.id for b in snapshot.budgets] == ["bu_x0", "bu_x_0"]
    assert [(c.budget, c.machine) for c in snapshot.claims] == sorted(
        (c.budget, c.machine) for c in claims
    )
    assert [v.version for v in snapshot.versions] == ["1.0.1", "1.0.10", "1.0.9"]


def test_versions_are_those_of_the_groups_image_as_they_stand(backend: Backend) -> None:
    backend.add_group(A, [], now=START)
    commit(backend, now=START)
    versions = [
        ImageVersion(version="1.0.1"),
        ImageVersion(version="1.0.2", excluded=True, floor=True),
        ImageVersion(version="1.0.3", replication=ReplicationState.REPLICATING),
    ]
    for version in versions:
        backend.publish(version, now=at(1))
    assert look(backend).versions == tuple(versions)
    assert backend.store.due_groups(at(1), 10) == [A.id]
    backend.publish(replace(versions[2], replication=ReplicationState.FAILED), now=at(2))
    assert look(backend).versions[2].replication is ReplicationState.FAILED


def test_blackouts_are_read_until_they_end(backend: Backend) -> None:
    backend.add_group(A, [], now=START)
    late = Interval(opens=at(20), closes=at(30), name="late")
    early = Interval(opens=at(5), closes=at(10), name="early")
    for blackout in (late, early):
        backend.add_blackout(A.id, blackout, now=START)
    assert look(backend, now=at(9)).blackouts == (early, late)
    assert look(backend, now=at(10)).blackouts == (late,)
    assert look(backend, now=at(9)).windows is None


def test_calls_are_read_in_the_order_they_were_made(backend: Backend) -> None:
    backend.add_group(A, [], now=START)
    calls = [
        OperatorCall(
            id=name,
            verb=Verb.STOP,
            machines=(MachineId("m_a_1"),),
            target="",
            actor="me",
            force=True,
        )
        for name in ("ca_2", "ca_1")
    ]
    for minute, call in enumerate(calls):
        backend.add_call(A.id, call, now=at(minute))
    assert look(backend).calls == tuple(calls)


def test_alarms_come_back_by_name_and_each_answer_makes_their_group_due(backend: Backend) -> None:
    backend.add_group(A, [], now=START)
    backend.add_group(B, [], now=START)
    alarm = Alarm(name="b", action=AlarmAction.HALT, since=START)
    backend.add_alarm(A.id, alarm, now=START)
    backend.add_alarm(A.id, replace(alarm, name="a", action=AlarmAction.HOLD), now=START)
    for group in (A, B):
        assert commit(backend, group.id, now=at(1))
    assert backend.store.due_groups(at(2), 10) == []
    backend.tell_alarm(A.id, "b", AlarmState.FIRING, "5 a second", now=at(2))
    assert backend.store.due_groups(at(2), 10) == [A.id]
    backend.tell_alarm(A.id, "b", AlarmState.QUIET, "nothing", now=at(3))
    first, second = look(backend).alarms
    assert (first.name, first.state) == ("a", AlarmState.UNKNOWN)
    assert second == replace(
        alarm,
        state=AlarmState.QUIET,
        since=at(3),
        fired_at=at(2),
        quiet_at=at(3),
        detail="nothing",
    )
    backend.remove_alarm(A.id, "b", now=at(4))
    assert look(backend).alarms == (first,)
    assert look(backend, B.id).alarms == ()


def test_a_plan_that_saw_the_alarm_quiet_is_not_written(backend: Backend) -> None:
    backend.add_group(A, [], now=START)
    backend.add_alarm(A.id, Alarm(name="a", action=AlarmAction.HOLD, since=START), now=START)
    snapshot, seen = read(backend, now=at(1))
    backend.tell_alarm(A.id, "a", AlarmState.FIRING, "", now=at(1))
    assert not backend.store.commit_plan(Plan(group=snapshot.group), seen, now=at(1))
    snapshot, seen = read(backend, now=at(2))
    backend.tell_alarm(A.id, "a", AlarmState.FIRING, "again", now=at(2))  # It says nothing new.
    assert backend.store.commit_plan(Plan(group=snapshot.group), seen, now=at(2))


# What has ended.


def end(backend: Backend, number: int, *, minute: float, **changes: Any) -> None:
    rollout = a_rollout(A, number, now=at(minute - 1), **changes)
    ended = replace(rollout, state=RolloutState.COMPLETED, ended_at=at(minute))
    assert commit(backend, now=at(minute), rollouts=(ended,))


def test_the_past_is_what_retries_are_judged_by_newest_first(backend: Backend) -> None:
    backend.add_group(A, [], now=START)
    for number in range(1, 4):
        end(backend, number, minute=number)
    end(backend, 4, minute=4, system=System.OPERATOR)
    end(backend, 5, minute=4, system=System.SCALE, verb=Verb.CREATE)
    numbers = [int(r.id.rpartition("_")[2]) for r in look(backend, now=at(4)).past]
    assert numbers == [5, 3, 2, 1]


def test_operators_calls_do_not_push_the_past_out(backend: Backend) -> None:
    backend.add_group(A, [], now=START)
    end(backend, 1, minute=1)
    calls = [
        a_rollout(
            A,
            number,
            now=at(1),
            system=System.OPERATOR,
            state=RolloutState.COMPLETED,
            ended_at=at(2),
        )
        for number in range(2, 210)
    ]
    assert commit(backend, now=at(2), rollouts=tuple(calls))
    assert [r.id for r in look(backend, now=at(2)).past] == ["ro_g_a_1"]


def test_a_bad_version_is_remembered_whatever_else_happens_and_however_long_ago(
    backend: Backend,
) -> None:
    """250 repairs once pushed it out of what a plan is given, and it was tried again (seed 87)."""
    backend.add_group(A, machines_of(A, 1, since=START), now=START)

    def ended(number: int, day: int, **kind: Any) -> Rollout:
        moment = START + timedelta(days=day, minutes=number)
        rollout = a_rollout(A, number, now=moment, state=RolloutState.FAULTED, **kind)
        return replace(rollout, ended_at=moment)

    guilty = ended(1, 0, target="1.0.1", guilty=True)
    repairs = [
        ended(n, 100, system=System.REPAIR, verb=Verb.RESTART, target="") for n in range(2, 252)
    ]
    by_hand = [ended(n, 200, started_by=StartedBy.USER, target="1.0.1") for n in range(252, 502)]
    rollouts = (guilty, *repairs, *by_hand)
    assert commit(backend, now=at(1), rollouts=rollouts)
    past = look(backend, now=START + timedelta(days=400)).past
    assert past == (*reversed(by_hand[50:]), *reversed(repairs[-20:]), guilty)


# Budgets.


def budgets(backend: Backend, group: str = "g_a", *, now: datetime = START) -> dict[str, Budget]:
    found = look(backend, group, now=now).budgets
    return {b.name: replace(b, version=0) for b in found}


def test_a_budget_over_groups_counts_what_is_down_elsewhere(backend: Backend) -> None:
    zones = ("1", "2")
    for group in (A, B):
        backend.add_group(group, machines_of(group, 4, since=START, zones=zones), now=START)
    rules = {
        "per zone": a_budget("per zone", max_down=20, percent=True, per_zone=True),
        "zone 1": a_budget("zone 1", min_available=3),
    }
    backend.add_budget(rules["per zone"], A.id, B.id, now=START)
    backend.add_budget(rules["zone 1"], A.id, B.id, zone="1", now=START)
    for machine in ("m_b_0", "m_b_2", "m_b_3", "m_a_0"):
        backend.store.observe(MachineId(machine), Sighting(health=Health.UNHEALTHY), now=at(1))
    assert budgets(backend) == {
        "per zone": replace(
            rules["per zone"], size={"1": 4, "2": 4}, used_elsewhere={"1": 2, "2": 1}
        ),
        "zone 1": replace(
            rules["zone 1"],
            size={"": 4},
            used_elsewhere={"": 2},
            members=frozenset({MachineId("m_a_0"), MachineId("m_a_2")}),
        ),
    }


def test_a_budget_that_selects_none_of_the_groups_machines_is_left_out(backend: Backend) -> None:
    backend.add_group(A, machines_of(A, 2, since=START), now=START)
    backend.add_group(B, machines_of(B, 2, since=START, zones=("2",)), now=START)
    backend.add_budget(a_budget("own"), A.id, own=True, now=START)
    backend.add_budget(a_budget("zone 2"), A.id, B.id, zone="2", now=START)
    assert set(budgets(backend)) == {"own"}
    assert budgets(backend, B.id)["zone 2"].members is None


def test_a_group_without_machines_has_its_own_budget(backend: Backend) -> None:
    backend.add_group(A, [], now=START)
    backend.add_group(B, [], now=START)
    backend.add_budget(a_budget("own"), A.id, own=True, now=START)
    backend.add_budget(a_budget("team"), A.id, B.id, now=START)
    assert set(budgets(backend)) == {"own"}
    assert budgets(backend)["own"].size == {}


def test_machines_that_do_not_serve_count_nowhere(backend: Backend) -> None:
    machines = machines_of(A, 4, since=START, health=Health.UNHEALTHY)
    backend.add_group(A, machines, now=START)
    backend.add_group(B, machines_of(B, 1, since=START), now=START)
    backend.add_budget(a_budget("team"), A.id, B.id, now=START)
    lives = (Lifecycle.CREATING, Lifecycle.STOPPED, Lifecycle.DELETING)
    others = [replace(m, lifecycle=life) for m, life in zip(machines, lives, strict=False)]
    assert commit(backend, now=at(1), machines=tuple(others))
    team = budgets(backend, B.id)["team"]
    assert (team.size, team.used_elsewhere) == ({"": 2}, {"": 1})


def test_a_rate_counts_the_starts_of_its_period_anywhere(backend: Backend) -> None:
    for group in (A, B):
        backend.add_group(group, machines_of(group, 2, since=START), now=START)
    rule = a_budget("slow", max_down=9, rate=3, rate_period=timedelta(minutes=10))
    backend.add_budget(rule, A.id, B.id, now=START)
    for minute, group, machine in ((1, A, "m_a_0"), (4, B, "m_b_0"), (4, B, "m_b_1")):
        place = a_claim("slow", machine, a_rollout(group, 1, now=at(0)), now=at(minute))
        assert commit(backend, group.id, now=at(minute), claims=(place,))
    assert budgets(backend, now=at(4))["slow"].started == (at(1), at(4), at(4))
    assert budgets(backend, now=at(11))["slow"].started == (at(4), at(4))
    assert commit(backend, B.id, now=at(11), released=(("bu_slow", "m_b_0"),))
    assert budgets(backend, now=at(11))["slow"].started == (at(4), at(4))
    late = a_claim("slow", "m_a_1", a_rollout(A, 1, now=at(0)), now=at(14))
    assert commit(backend, now=at(14), claims=(late,))
    assert budgets(backend, now=at(14))["slow"].started == (at(14),)


# Domains.


@pytest.fixture
def zones(backend: Backend) -> Backend:
    """Two groups of four over two zones; those of the first also share a host."""
    for group, host in ((a_group("a", fault_domains=2), "h1"), (B, "")):
        machines = machines_of(group, 4, since=START, zones=("1", "2"), host=host)
        backend.add_group(group, machines, now=START)
    return backend


def lose(backend: Backend, *machines: str, minute: float, back: bool = False) -> None:
    health = Health.HEALTHY if back else Health.UNKNOWN
    for machine in machines:
        assert backend.store.observe(MachineId(machine), Sighting(health=health), now=at(minute))


def test_a_zone_is_counted_over_the_whole_fleet(zones: Backend) -> None:
    lose(zones, "m_b_0", "m_b_2", minute=1)
    assert look(zones, now=at(2)).domains == ()
    lose(zones, "m_a_0", minute=2)
    away = ((at(1), None), (at(1), None), (at(2), None))
    zone = Domain(kind="zone", name="1", size=4, away=away)
    assert look(zones, now=at(2)).domains == (zone,)
    assert look(zones, B.id, now=at(2)).domains == (zone,)


def test_a_machine_counts_as_away_until_ten_minutes_after_it_is_back(zones: Backend) -> None:
    lose(zones, "m_b_0", "m_b_2", "m_a_0", minute=1)
    lose(zones, "m_b_0", minute=3, back=True)
    away = ((at(1), None), (at(1), at(3)), (at(1), None))  # In the order of their ids.
    just = at(13) - timedelta(microseconds=1)
    assert look(zones, now=just).domains[0].away == away
    assert look(zones, now=at(13)).domains == ()
    lose(zones, "m_b_0", minute=14)
    assert look(zones, now=at(14)).domains[0].away[2] == (at(14), at(3))


def test_hosts_and_fault_domains_come_before_zones(zones: Backend) -> None:
    lose(zones, *(f"m_a_{n}" for n in range(4)), minute=1)
    lose(zones, "m_b_0", minute=2)
    domains = look(zones, now=at(2)).domains
    assert [(d.kind, d.name, d.size, len(d.away)) for d in domains] == [
        ("host", "h1", 4, 4),
        ("zone", "1", 4, 3),
    ]


def test_a_fault_domain_is_one_groups_own(backend: Backend) -> None:
    for name in ("a", "b"):
        group = a_group(name, fault_domains=2)
        machines = machines_of(group, 3, since=START, zones=("",), fault_domain=1)
        backend.add_group(group, machines, now=START)
    lose(backend, *(f"m_a_{n}" for n in range(3)), minute=1)
    lose(backend, "m_a_0", minute=2, back=True)
    away = ((at(1), at(2)), (at(1), None), (at(1), None))
    lost = Domain(kind="fault_domain", name="/1", size=3, away=away)
    assert look(backend, now=at(3)).domains == (lost,)
    assert look(backend, GroupId("g_b"), now=at(3)).domains == ()
    assert look(backend, now=at(12)).domains == ()


def test_a_machine_that_leaves_is_away_no_more(zones: Backend) -> None:
    lose(zones, "m_b_0", "m_b_2", "m_a_0", minute=1)
    leaving = replace(look(zones, B.id, now=at(2)).machines[0], lifecycle=Lifecycle.DELETING)
    assert commit(zones, B.id, now=at(2), machines=(leaving,))
    assert look(zones, now=at(2)).domains == ()

"""What was seen of a machine: only what differs is written, and only if it is not old."""

from dataclasses import replace

import pytest
from fleet_stores import (
    PROBE,
    START,
    Backend,
    a_budget,
    a_group,
    a_hold,
    a_rollout,
    a_task,
    an_action,
    at,
    claim,
    commit,
    done,
    look,
    machines_of,
    read,
    seen,
    versions,
)

from upkeep.core.hold import HoldReason
from upkeep.core.model import Health, Lifecycle, MachineId, Verb
from upkeep.core.task import IN_HAND, TaskState
from upkeep.engine.fleet_store import Sighting, WatchedMachine

A, B = a_group("a"), a_group("b")
ROLLOUT = a_rollout(A, 1, now=START)
FIRST, SECOND = MachineId("m_a_0"), MachineId("m_a_1")


@pytest.fixture
def fleet(backend: Backend) -> Backend:
    """Two groups of two under one budget, and nothing due."""
    for group in (A, B):
        backend.add_group(group, machines_of(group, 2, since=at(-60)), now=START)
    backend.add_budget(a_budget("team"), A.id, B.id, now=START)
    for group in (A, B):
        assert commit(backend, group.id, now=START)
    return backend


@pytest.mark.parametrize(
    ("sighting", "field", "after"),
    [
        (Sighting(health=Health.UNHEALTHY), "health", Health.UNHEALTHY),
        (Sighting(image="1.0.1"), "image", "1.0.1"),
        (Sighting(boots=2), "boots", 2),
        (Sighting(powered_off=True), "powered_off", True),
        (Sighting(phase=3), "phase", 3),
        (Sighting(phase=0), "phase", 0),
        (Sighting(skip=True), "skip", True),
    ],
)
def test_what_differs_is_written_and_makes_the_group_due(
    fleet: Backend, sighting: Sighting, field: str, after: object
) -> None:
    before = seen(fleet, FIRST, now=at(1))
    assert fleet.store.observe(FIRST, sighting, now=at(1))
    machine = seen(fleet, FIRST, now=at(1))
    changed = {f for f in before.__slots__ if getattr(before, f) != getattr(machine, f)}
    assert changed - {"health_since"} == {field}
    assert getattr(machine, field) == after
    assert fleet.store.due_groups(at(1), 10) == [A.id]
    marked = read(fleet, now=at(1))
    assert not fleet.store.observe(FIRST, sighting, now=at(2))
    assert read(fleet, now=at(1)) == marked


def test_an_address_is_written_for_the_prober(fleet: Backend) -> None:
    assert fleet.store.observe(FIRST, Sighting(address="10.0.0.7"), now=at(1))
    assert fleet.store.watched([FIRST])[0].address == "10.0.0.7"
    assert fleet.store.due_groups(at(1), 10) == [A.id]
    assert not fleet.store.observe(FIRST, Sighting(address="10.0.0.7"), now=at(2))


def test_fewer_starts_than_known_were_seen_earlier(fleet: Backend) -> None:
    assert not fleet.store.observe(FIRST, Sighting(boots=0), now=at(1))
    assert fleet.store.observe(FIRST, Sighting(boots=0, image="1.0.1"), now=at(1))
    assert seen(fleet, FIRST, now=at(1)).boots == 1


def test_health_has_a_since_and_moves_its_budgets(fleet: Backend) -> None:
    before = versions(fleet)["team"]
    assert fleet.store.observe(FIRST, Sighting(health=Health.UNHEALTHY), now=at(1))
    assert seen(fleet, FIRST, now=at(1)).health_since == at(1)
    ill = versions(fleet)["team"]
    assert ill > before
    assert look(fleet, B.id).budgets[0].used_elsewhere == {"": 1}
    assert fleet.store.observe(FIRST, Sighting(health=Health.HEALTHY), now=at(2))
    assert versions(fleet)["team"] > ill
    assert look(fleet, B.id).budgets[0].used_elsewhere == {}


def test_what_is_not_health_moves_no_budget(fleet: Backend) -> None:
    before = versions(fleet)
    fleet.store.observe(FIRST, Sighting(image="1.0.1", boots=2, skip=True), now=at(1))
    assert versions(fleet) == before


def test_who_waits_for_the_place_of_an_ill_machine_is_due_when_it_is_well(fleet: Backend) -> None:
    fleet.store.observe(FIRST, Sighting(health=Health.UNHEALTHY), now=at(1))
    spent = a_hold("m_b_0", HoldReason.BUDGET_SPENT, budget="team")
    assert commit(fleet, A.id, now=at(1))
    assert commit(fleet, B.id, now=at(1), holds=(spent,))
    fleet.store.observe(FIRST, Sighting(health=Health.HEALTHY), now=at(2))
    assert sorted(fleet.store.due_groups(at(2), 10)) == [A.id, B.id]


def test_health_from_before_the_work_is_ignored(fleet: Backend) -> None:
    """A probe was on its way while an action ended: what it saw says nothing of now."""
    action = an_action(ROLLOUT, FIRST, Verb.RESTART)
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,), actions=(action,))
    old = fleet.store.watched([FIRST])[0].watch_from
    (leased,) = claim(fleet, now=at(1))
    fleet.store.finish_action(action.key, fence=leased.fence, result=done("a-0"), now=at(2))
    late = Sighting(health=Health.HEALTHY, phase=4, watch_from=old)
    assert fleet.store.observe(FIRST, late, now=at(3))
    machine = seen(fleet, FIRST, now=at(3))
    assert (machine.health, machine.phase) == (Health.INITIALIZING, 4)
    assert not fleet.store.observe(FIRST, late, now=at(3))
    fresh = Sighting(health=Health.HEALTHY, watch_from=at(2))
    assert fleet.store.observe(FIRST, fresh, now=at(4))
    assert seen(fleet, FIRST, now=at(4)).health is Health.HEALTHY


def lose(fleet: Backend, machine: MachineId = FIRST, *, now: float) -> None:
    assert fleet.store.observe(machine, Sighting(health=Health.UNKNOWN), now=at(now))


def test_lost_and_back_have_their_moments(fleet: Backend) -> None:
    lose(fleet, now=1)
    machine = seen(fleet, FIRST, now=at(1))
    assert (machine.lost_at, machine.back_at) == (at(1), None)
    fleet.store.observe(FIRST, Sighting(health=Health.INITIALIZING), now=at(2))
    assert seen(fleet, FIRST, now=at(2)).back_at is None
    fleet.store.observe(FIRST, Sighting(health=Health.UNHEALTHY), now=at(3))
    assert seen(fleet, FIRST, now=at(3)).back_at == at(3)
    fleet.store.observe(FIRST, Sighting(health=Health.HEALTHY), now=at(4))
    assert seen(fleet, FIRST, now=at(4)).back_at == at(3)
    lose(fleet, now=5)
    machine = seen(fleet, FIRST, now=at(5))
    assert (machine.lost_at, machine.back_at) == (at(5), at(3))


def test_a_machine_under_an_action_is_not_lost(fleet: Backend) -> None:
    action = an_action(ROLLOUT, FIRST, Verb.RESTART)
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,), actions=(action,))
    claim(fleet, now=at(1))
    lose(fleet, now=2)
    assert seen(fleet, FIRST, now=at(2)).lost_at is None


def test_an_action_given_back_is_still_under_way(fleet: Backend) -> None:
    action = an_action(ROLLOUT, FIRST, Verb.RESTART)
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,), actions=(action,))
    (leased,) = claim(fleet, now=at(1))
    fleet.store.retry_action(action.key, fence=leased.fence, result=done(), not_before=at(9))
    lose(fleet, now=2)
    assert seen(fleet, FIRST, now=at(2)).lost_at is None


def test_of_two_actions_under_way_one_is_left(fleet: Backend) -> None:
    actions = [an_action(ROLLOUT, FIRST, verb) for verb in (Verb.RESTART, Verb.STOP)]
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,), actions=tuple(actions))
    first, _ = claim(fleet, now=at(1))
    fleet.store.finish_action(first.action.key, fence=first.fence, result=done(), now=at(1))
    lose(fleet, now=2)
    assert seen(fleet, FIRST, now=at(2)).lost_at is None


def test_an_intent_that_nobody_has_begun_does_not_explain_a_loss(fleet: Backend) -> None:
    action = an_action(ROLLOUT, FIRST, Verb.RESTART)
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,), actions=(action,))
    lose(fleet, now=2)
    assert seen(fleet, FIRST, now=at(2)).lost_at == at(2)


@pytest.mark.parametrize("state", TaskState)
def test_a_machine_in_hand_or_baking_is_not_lost(fleet: Backend, state: TaskState) -> None:
    task = a_task(ROLLOUT, FIRST, now=at(1), state=state)
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,), tasks=(task,))
    lose(fleet, now=2)
    is_ours = state in IN_HAND or state is TaskState.BAKING
    assert (seen(fleet, FIRST, now=at(2)).lost_at is None) == is_ours


def test_a_machine_that_stands_in_for_another_is_in_hand_too(fleet: Backend) -> None:
    task = a_task(ROLLOUT, FIRST, now=at(1), state=TaskState.BAKING, stand_in=SECOND)
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,), tasks=(task,))
    lose(fleet, SECOND, now=2)
    assert seen(fleet, SECOND, now=at(2)).lost_at is None


def test_nobody_is_watched_or_seen_who_is_not_there(fleet: Backend) -> None:
    nobody = MachineId("m_nobody_0")
    assert not fleet.store.observe(nobody, Sighting(health=Health.HEALTHY), now=at(1))
    assert fleet.store.watched([nobody]) == []
    assert fleet.store.watched([]) == []


def test_the_watched_are_those_that_serve_or_come(fleet: Backend) -> None:
    assert {w.machine for w in fleet.store.watched()} == {"m_a_0", "m_a_1", "m_b_0", "m_b_1"}
    first, second = look(fleet).machines
    coming = replace(second, lifecycle=Lifecycle.CREATING)
    leaving = replace(first, lifecycle=Lifecycle.STOPPED)
    assert commit(fleet, now=at(1), machines=(leaving, coming))
    assert {w.machine for w in fleet.store.watched()} == {"m_a_1", "m_b_0", "m_b_1"}
    assert fleet.store.watched([FIRST]) == []


def test_a_watch_has_all_that_watching_needs(fleet: Backend) -> None:
    assert fleet.store.watched([FIRST]) == [
        WatchedMachine(
            machine=FIRST,
            address="sim:a-0",
            probe=PROBE,
            source="both",
            watch_from=START,
            health=Health.HEALTHY,
        )
    ]

"""The journal of actions: leased in batches to one process at a time, fenced, ended once."""

from dataclasses import replace
from datetime import timedelta

import pytest
from fleet_stores import (
    IMAGE,
    PLATFORM,
    START,
    Backend,
    a_group,
    a_rollout,
    a_task,
    an_action,
    at,
    claim,
    commit,
    done,
    look,
    machines_of,
    seen,
)

from upkeep.core.model import Health, Lifecycle, MachineId, Rollout, RolloutState, Verb
from upkeep.core.snapshot import Action
from upkeep.engine.fleet_store import ActionResult, LeasedAction, Sighting
from upkeep.ports import Power

GROUP = a_group()
ROLLOUT = a_rollout(GROUP, 1, now=START)
RESTART = an_action(ROLLOUT, "m_a_0", Verb.RESTART)
REFUSED = ActionResult(succeeded=False, kind="failed", detail="it said no")


@pytest.fixture
def fleet(backend: Backend) -> Backend:
    backend.add_group(GROUP, machines_of(GROUP, 3, since=at(-60)), now=START)
    return backend


def begin(fleet: Backend, *actions: Action, minute: float = 0, rollout: Rollout = ROLLOUT) -> None:
    """Intents, with the tasks that wait for them."""
    tasks = [a_task(rollout, action.machine, now=at(minute)) for action in actions]
    parts = {"rollouts": (rollout,), "tasks": tuple(tasks), "actions": actions}
    assert commit(fleet, now=at(minute), **parts)


def replacing(number: int) -> Action:
    return an_action(ROLLOUT, f"m_a_{number}", Verb.REPLACE_OS_DISK)


def keys(fleet: Backend, *, minute: float, limit: int = 10) -> list[str]:
    return [leased.action.key for leased in claim(fleet, now=at(minute), limit=limit)]


def test_an_action_is_leased_with_all_that_performing_it_needs(fleet: Backend) -> None:
    begin(fleet, replacing(0))
    (leased,) = claim(fleet, now=at(1))
    assert leased.action == replacing(0)
    assert (leased.machine_name, leased.platform, leased.image_name) == ("a-0", PLATFORM, IMAGE)
    assert (leased.fence, leased.attempts) == (1, 1)


def test_nothing_is_leased_twice(fleet: Backend) -> None:
    begin(fleet, *(replacing(number) for number in range(3)))
    first = keys(fleet, minute=1, limit=2)
    assert len(first) == 2
    assert keys(fleet, minute=1) == [replacing(2).key]
    assert keys(fleet, minute=1) == []


def test_the_oldest_are_leased_first(fleet: Backend) -> None:
    begin(fleet, replacing(2), minute=0)
    begin(fleet, replacing(1), minute=1)
    begin(fleet, replacing(0), minute=2)
    assert keys(fleet, minute=3, limit=1) == [replacing(2).key]
    assert keys(fleet, minute=3, limit=1) == [replacing(1).key]


def test_one_that_was_given_back_goes_behind_those_that_waited_longer(fleet: Backend) -> None:
    begin(fleet, replacing(0), minute=0)
    begin(fleet, replacing(1), minute=2)
    (leased,) = claim(fleet, now=at(1), limit=1)
    fleet.store.retry_action(
        leased.action.key, fence=leased.fence, result=REFUSED, not_before=at(3)
    )
    assert keys(fleet, minute=4, limit=1) == [replacing(1).key]


def test_a_lease_that_ran_out_goes_before_what_nobody_has_begun(fleet: Backend) -> None:
    begin(fleet, replacing(0), minute=1)
    begin(fleet, replacing(1), minute=0)
    assert keys(fleet, minute=1, limit=1) == [replacing(1).key]  # Until minute 2.
    assert keys(fleet, minute=2, limit=1) == [replacing(1).key]


def test_a_key_is_one_action_for_ever(fleet: Backend) -> None:
    begin(fleet, replacing(0), replacing(0))
    begin(fleet, replacing(0))
    (leased,) = claim(fleet, now=at(1))
    begin(fleet, replacing(0), minute=1)
    assert claim(fleet, now=at(1)) == []
    fleet.store.finish_action(leased.action.key, fence=leased.fence, result=REFUSED, now=at(1))
    begin(fleet, replacing(0), minute=2)
    assert claim(fleet, now=at(100)) == []
    assert not look(fleet).outcomes[leased.action.key].succeeded


def test_a_lease_that_ran_out_is_handed_over_with_a_higher_fence(fleet: Backend) -> None:
    begin(fleet, replacing(0))
    (first,) = claim(fleet, now=at(1), lease=1)
    assert claim(fleet, now=at(2) - timedelta(microseconds=1)) == []
    (second,) = claim(fleet, now=at(2), owner="two")
    assert (second.fence, second.attempts) == (first.fence + 1, 2)
    assert not fleet.store.extend_lease(first.action.key, fence=first.fence, lease_until=at(9))
    assert fleet.store.extend_lease(second.action.key, fence=second.fence, lease_until=at(9))


def test_a_heartbeat_never_shortens_a_lease(fleet: Backend) -> None:
    begin(fleet, replacing(0))
    (leased,) = claim(fleet, now=at(1), lease=4)
    assert fleet.store.extend_lease(leased.action.key, fence=leased.fence, lease_until=at(2))
    assert claim(fleet, now=at(4)) == []
    assert fleet.store.extend_lease(leased.action.key, fence=leased.fence, lease_until=at(7))
    assert claim(fleet, now=at(6)) == []
    assert len(claim(fleet, now=at(7))) == 1


def test_a_fence_is_the_machines_own_over_all_its_actions(fleet: Backend) -> None:
    begin(fleet, replacing(0), replacing(1))
    fences = [leased.fence for leased in claim(fleet, now=at(1))]
    assert fences == [1, 1]
    for number in (0, 1):
        fleet.store.finish_action(replacing(number).key, fence=1, result=REFUSED, now=at(2))
    begin(fleet, an_action(ROLLOUT, "m_a_0", Verb.SWITCH_BACK), minute=3)
    (back,) = claim(fleet, now=at(3))
    assert (back.fence, back.attempts) == (2, 1)


def test_an_action_given_back_waits_until_its_moment(fleet: Backend) -> None:
    begin(fleet, replacing(0))
    (leased,) = claim(fleet, now=at(1))
    key, fence = leased.action.key, leased.fence
    fleet.store.retry_action(key, fence=fence, result=REFUSED, not_before=at(5))
    assert claim(fleet, now=at(4)) == []
    assert not fleet.store.extend_lease(key, fence=fence, lease_until=at(9))
    assert not fleet.store.finish_action(key, fence=fence, result=done(), now=at(4))
    assert look(fleet, now=at(4)).outcomes == {}
    (again,) = claim(fleet, now=at(5))
    assert (again.fence, again.attempts) == (fence + 1, 2)


def test_whoever_lost_the_lease_cannot_give_the_action_back(fleet: Backend) -> None:
    begin(fleet, replacing(0))
    (first,) = claim(fleet, now=at(1), lease=1)
    (second,) = claim(fleet, now=at(2), lease=10)
    fleet.store.retry_action(first.action.key, fence=first.fence, result=REFUSED, not_before=at(2))
    assert claim(fleet, now=at(3)) == []
    assert fleet.store.finish_action(
        second.action.key, fence=second.fence, result=done(), now=at(3)
    )


def test_an_outcome_is_recorded_once(fleet: Backend) -> None:
    begin(fleet, replacing(0))
    (leased,) = claim(fleet, now=at(1))
    key, fence = leased.action.key, leased.fence
    assert fleet.store.finish_action(key, fence=fence, result=REFUSED, now=at(2))
    assert not fleet.store.finish_action(key, fence=fence, result=done(), now=at(3))
    outcome = look(fleet, now=at(3)).outcomes[key]
    assert (outcome.succeeded, outcome.at) == (False, at(2))
    assert (outcome.kind, outcome.detail) == ("failed", "it said no")
    assert claim(fleet, now=at(100)) == []


def test_an_outcome_makes_its_group_due(fleet: Backend) -> None:
    begin(fleet, replacing(0))
    (leased,) = claim(fleet, now=at(1))
    assert fleet.store.due_groups(at(1), 10) == []
    fleet.store.finish_action(leased.action.key, fence=leased.fence, result=done(), now=at(2))
    assert fleet.store.due_groups(at(2), 10) == [GROUP.id]


def test_an_outcome_with_a_status_writes_it_and_begins_the_watch_anew(fleet: Backend) -> None:
    begin(fleet, replacing(0))
    (leased,) = claim(fleet, now=at(1))
    fleet.store.observe(leased.action.machine, Sighting(health=Health.HEALTHY), now=at(2))
    fleet.store.finish_action(leased.action.key, fence=leased.fence, result=done("a-0"), now=at(3))
    machine = seen(fleet, "m_a_0", now=at(3))
    assert (machine.image, machine.kept, machine.boots) == ("1.0.1", "1.0.0", 2)
    assert (machine.health, machine.health_since) == (Health.INITIALIZING, at(3))
    (watched,) = fleet.store.watched([machine.id])
    assert (watched.address, watched.watch_from) == ("10.0.0.9", at(3))


def test_health_that_was_about_to_begin_keeps_its_since(fleet: Backend) -> None:
    begin(fleet, replacing(0))
    (leased,) = claim(fleet, now=at(1), lease=1)
    (leased,) = claim(fleet, now=at(2))
    fleet.store.finish_action(leased.action.key, fence=leased.fence, result=done("a-0"), now=at(3))
    assert seen(fleet, "m_a_0", now=at(3)).health_since == at(1)


def test_a_failure_of_which_nothing_was_seen_begins_the_watch_anew_too(fleet: Backend) -> None:
    """Else the machine, which may never have gone down, would be about to start for ever."""
    begin(fleet, replacing(0))
    (leased,) = claim(fleet, now=at(1))
    assert fleet.store.finish_action(
        leased.action.key, fence=leased.fence, result=REFUSED, now=at(2)
    )
    (watched,) = fleet.store.watched([leased.action.machine])
    assert (watched.watch_from, watched.health) == (at(2), Health.INITIALIZING)


@pytest.mark.parametrize("power", [Power.ABSENT, Power.UNKNOWN])
def test_what_the_platform_cannot_say_is_not_written(fleet: Backend, power: Power) -> None:
    begin(fleet, replacing(0))
    (leased,) = claim(fleet, now=at(1))
    before = seen(fleet, "m_a_0", now=at(1))
    assert before.health is Health.INITIALIZING
    result = done("a-0", power=power, image_version="", boots=9)
    assert fleet.store.finish_action(
        leased.action.key, fence=leased.fence, result=result, now=at(2)
    )
    assert seen(fleet, "m_a_0", now=at(2)) == before


def test_a_status_from_before_the_last_start_is_not_written(fleet: Backend) -> None:
    begin(fleet, replacing(0))
    (leased,) = claim(fleet, now=at(1))
    fleet.store.observe(leased.action.machine, Sighting(boots=3), now=at(2))
    before = seen(fleet, "m_a_0", now=at(2))
    result = done("a-0", boots=2)
    assert fleet.store.finish_action(
        leased.action.key, fence=leased.fence, result=result, now=at(3)
    )
    assert seen(fleet, "m_a_0", now=at(3)) == before


def test_an_outcome_with_an_old_fence_moves_no_task_but_says_what_was_seen(fleet: Backend) -> None:
    begin(fleet, replacing(0))
    (first,) = claim(fleet, now=at(1), lease=1)
    (second,) = claim(fleet, now=at(2), lease=10)
    assert commit(fleet, now=at(2))
    result = done("a-0", power=Power.OFF)
    assert not fleet.store.finish_action(
        first.action.key, fence=first.fence, result=result, now=at(3)
    )
    snapshot = look(fleet, now=at(3))
    assert snapshot.outcomes == {}
    machine = seen(fleet, "m_a_0", now=at(3))
    assert (machine.image, machine.boots, machine.powered_off) == ("1.0.1", 2, True)
    assert fleet.store.watched([machine.id])[0].watch_from == START
    assert fleet.store.due_groups(at(3), 10) == [GROUP.id]
    assert fleet.store.finish_action(
        second.action.key, fence=second.fence, result=done("a-0"), now=at(4)
    )


PLATFORM_VERBS = sorted(set(Verb) - {Verb.DRAIN})


@pytest.mark.parametrize("verb", PLATFORM_VERBS)
def test_health_seen_before_an_action_begins_says_nothing_after(fleet: Backend, verb: Verb) -> None:
    """Also for a removal: one that fails half-way may have stopped the machine."""
    begin(fleet, an_action(ROLLOUT, "m_a_0", verb))
    claim(fleet, now=at(1))
    machine = seen(fleet, "m_a_0", now=at(1))
    assert (machine.health, machine.health_since) == (Health.INITIALIZING, at(1))
    assert seen(fleet, "m_a_1", now=at(1)).health is Health.HEALTHY


def test_draining_waits_for_the_agent_and_is_never_leased(fleet: Backend) -> None:
    drain = an_action(ROLLOUT, "m_a_0", Verb.DRAIN)
    begin(fleet, drain)
    assert claim(fleet, now=at(100)) == []
    assert seen(fleet, "m_a_0", now=at(100)).health is Health.HEALTHY
    fleet.answered("m_a_0", drain.key, now=at(101))
    assert look(fleet, now=at(101)).outcomes[drain.key].succeeded
    assert fleet.store.due_groups(at(101), 10) == [GROUP.id]
    fleet.answered("m_a_0", drain.key, now=at(102))
    assert look(fleet, now=at(102)).outcomes[drain.key].at == at(101)


def test_a_command_that_was_revoked_has_failed_and_stays_so(fleet: Backend) -> None:
    drain = an_action(ROLLOUT, "m_a_0", Verb.DRAIN)
    begin(fleet, drain)
    assert commit(fleet, now=at(1), revoked=(drain.key,))
    fleet.answered("m_a_0", drain.key, now=at(2))
    outcome = look(fleet, now=at(3)).outcomes[drain.key]
    assert (outcome.succeeded, outcome.at) == (False, at(1))


def test_what_was_done_in_the_meantime_is_not_revoked(fleet: Backend) -> None:
    drain = an_action(ROLLOUT, "m_a_0", Verb.DRAIN)
    begin(fleet, drain)
    fleet.answered("m_a_0", drain.key, now=at(1))
    assert commit(fleet, now=at(2), revoked=(drain.key,))
    outcome = look(fleet, now=at(3)).outcomes[drain.key]
    assert (outcome.succeeded, outcome.at) == (True, at(1))


def given(fleet: Backend, *, minute: float, until: float) -> LeasedAction:
    """A restart that was claimed and passed on to the machine's agent."""
    (leased,) = claim(fleet, now=at(minute))
    fleet.store.give_to_agent(leased.action.key, fence=leased.fence, lease_until=at(until))
    return leased


def test_what_was_given_to_an_agent_is_offered_to_it_and_to_nobody_else(fleet: Backend) -> None:
    begin(fleet, RESTART)
    assert fleet.offered("m_a_0") == []
    leased = given(fleet, minute=1, until=21)
    assert not leased.was_with_agent
    assert fleet.offered("m_a_0") == [(RESTART.key, leased.fence)]
    assert fleet.offered("m_a_1") == []
    assert keys(fleet, minute=20) == []
    assert seen(fleet, "m_a_0", now=at(20)).health is Health.INITIALIZING


def test_an_agents_answer_ends_what_it_was_given_and_begins_the_watch_anew(fleet: Backend) -> None:
    begin(fleet, RESTART)
    given(fleet, minute=1, until=21)
    fleet.store.observe(MachineId("m_a_0"), Sighting(health=Health.HEALTHY), now=at(2))
    fleet.answered("m_a_0", RESTART.key, now=at(3))
    assert look(fleet, now=at(3)).outcomes[RESTART.key].succeeded
    assert seen(fleet, "m_a_0", now=at(3)).health is Health.INITIALIZING
    (watched,) = fleet.store.watched([MachineId("m_a_0")])
    assert watched.watch_from == at(3)
    assert fleet.offered("m_a_0") == []
    fleet.answered("m_a_0", RESTART.key, now=at(4), succeeded=False)
    assert look(fleet, now=at(4)).outcomes[RESTART.key].at == at(3)


def test_an_agent_may_say_that_it_could_not(fleet: Backend) -> None:
    begin(fleet, RESTART)
    given(fleet, minute=1, until=21)
    fleet.answered("m_a_0", RESTART.key, now=at(3), succeeded=False)
    assert not look(fleet, now=at(3)).outcomes[RESTART.key].succeeded


def test_an_agent_that_has_not_answered_in_its_time_is_not_believed_later(fleet: Backend) -> None:
    begin(fleet, RESTART)
    given(fleet, minute=1, until=21)
    (late,) = claim(fleet, now=at(21))
    assert late.was_with_agent
    assert fleet.offered("m_a_0") == []
    fleet.answered("m_a_0", RESTART.key, now=at(22))
    assert RESTART.key not in look(fleet, now=at(22)).outcomes
    assert fleet.store.finish_action(RESTART.key, fence=late.fence, result=REFUSED, now=at(23))
    assert not look(fleet, now=at(23)).outcomes[RESTART.key].succeeded


def test_nothing_is_given_to_an_agent_by_whoever_lost_the_lease(fleet: Backend) -> None:
    begin(fleet, RESTART)
    (first,) = claim(fleet, now=at(1))
    (second,) = claim(fleet, now=at(3))
    fleet.store.give_to_agent(RESTART.key, fence=first.fence, lease_until=at(90))
    assert fleet.offered("m_a_0") == []
    assert fleet.store.extend_lease(RESTART.key, fence=second.fence, lease_until=at(5))
    assert not claim(fleet, now=at(6))[0].was_with_agent


def test_all_commands_to_an_agent_bring_the_machines_own_fence(fleet: Backend) -> None:
    """An agent refuses what is older than anything it has seen, of whatever action."""
    drain = an_action(ROLLOUT, "m_a_0", Verb.DRAIN)
    begin(fleet, RESTART)
    leased = given(fleet, minute=1, until=21)
    begin(fleet, drain, minute=2)
    assert dict(fleet.offered("m_a_0")) == {RESTART.key: leased.fence, drain.key: leased.fence}


def test_nobody_works_on_a_machine_that_is_gone(fleet: Backend) -> None:
    begin(fleet, replacing(0), replacing(1))
    (gone, _, _) = look(fleet).machines
    assert commit(fleet, now=at(1), machines=(replace(gone, lifecycle=Lifecycle.DELETED),))
    assert keys(fleet, minute=2) == [replacing(1).key]
    assert keys(fleet, minute=100) == [replacing(1).key]
    assert look(fleet, now=at(100)).outcomes == {}


def test_an_action_that_nobody_knows_changes_nothing(fleet: Backend) -> None:
    assert not fleet.store.extend_lease("nobody", fence=1, lease_until=at(1))
    fleet.store.retry_action("nobody", fence=1, result=REFUSED, not_before=at(1))
    assert not fleet.store.finish_action("nobody", fence=1, result=done(), now=at(1))
    assert claim(fleet, now=at(100)) == []


def test_an_outcome_of_an_ended_rollout_is_not_read_any_more(fleet: Backend) -> None:
    begin(fleet, replacing(0))
    (leased,) = claim(fleet, now=at(1))
    ended = replace(ROLLOUT, state=RolloutState.CANCELLED, ended_at=at(2))
    assert commit(fleet, now=at(2), rollouts=(ended,))
    assert fleet.store.finish_action(
        leased.action.key, fence=leased.fence, result=done(), now=at(3)
    )
    snapshot = look(fleet, now=at(3))
    assert (snapshot.rollouts, snapshot.tasks, snapshot.outcomes) == ((), (), {})
    assert snapshot.past == (ended,)

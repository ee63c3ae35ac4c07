"""Writing a plan: whole or not at all, fenced, and only if no budget it counted on has moved."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fleet_stores import (
    START,
    Backend,
    a_budget,
    a_claim,
    a_group,
    a_hold,
    a_rollout,
    a_task,
    an_action,
    at,
    claim,
    commit,
    look,
    machines_of,
    read,
    versions,
)

from upkeep.core.hold import HoldReason
from upkeep.core.hook_event import Answer, HookEvent, HookKind
from upkeep.core.model import (
    BudgetId,
    Claim,
    Health,
    Lifecycle,
    MachineId,
    Priority,
    RepairAction,
    Repairs,
    RolloutId,
    RolloutState,
    Verb,
)
from upkeep.core.snapshot import Action, OperatorCall, Plan
from upkeep.core.task import TaskState
from upkeep.engine.fleet_store import Sighting

A, B = a_group("a"), a_group("b")
ROLLOUT = a_rollout(A, 1, now=START)
FIRST, SECOND = MachineId("m_a_0"), MachineId("m_a_1")
TEAM = BudgetId("bu_team")


@pytest.fixture
def fleet(backend: Backend) -> Backend:
    """Two groups of three under one budget, `team`; each also has its own."""
    for group in (A, B):
        backend.add_group(group, machines_of(group, 3, since=at(-60)), now=START)
    backend.add_budget(a_budget("a"), A.id, own=True, now=START)
    backend.add_budget(a_budget("b"), B.id, own=True, now=START)
    backend.add_budget(a_budget("team"), A.id, B.id, now=START)
    return backend


def a_question(**answers: Any) -> HookEvent:
    """Asked at second 1 about the first machine, and about more if they are named."""
    return HookEvent(
        rollout=ROLLOUT.id,
        serial=1,
        kind=HookKind.BATCH,
        created_at=at(1),
        wait_until=at(9),
        approves=True,
        answers={FIRST: Answer.WAITING, **answers},
    )


def everything(now: float = 1) -> dict[str, Any]:
    """A plan that writes to every table."""
    new = replace(
        machines_of(A, 4, since=at(now))[3],
        lifecycle=Lifecycle.CREATING,
        health=Health.INITIALIZING,
        boots=0,
        image="",
    )
    task = a_task(ROLLOUT, FIRST, now=at(now), state=TaskState.RUNNING, batch=1)
    return {
        "group": replace(A, baked="1.0.0", baked_model="m1", next_ordinal=4, next_rollout=2),
        "machines": (replace(machines_of(A, 1, since=at(-60))[0], worked_at=at(now)), new),
        "rollouts": (ROLLOUT,),
        "hook_events": (a_question(),),
        "tasks": (task, a_task(ROLLOUT, "m_a_1", now=at(now), state=TaskState.HELD)),
        "actions": (an_action(ROLLOUT, FIRST, Verb.REPLACE_OS_DISK),),
        "claims": tuple(a_claim(name, FIRST, ROLLOUT, now=at(now)) for name in ("a", "team")),
        "holds": (a_hold("m_a_1", HoldReason.BUDGET_SPENT, budget="team"),),
        "calls_done": (("ca_1", ""),),
        "story": ("it begins",),
        "next_wake": at(now + 5),
    }


def test_what_a_plan_says_is_what_the_next_snapshot_reads(fleet: Backend) -> None:
    fleet.add_call(A.id, OperatorCall(id="ca_1", verb=Verb.RESTART, machines=(FIRST,)), now=START)
    before, mark = read(fleet, now=at(1))
    assert before.calls == (OperatorCall(id="ca_1", verb=Verb.RESTART, machines=(FIRST,)),)
    parts = everything()
    assert fleet.store.commit_plan(Plan(**parts), mark, now=at(1))
    after = look(fleet, now=at(1))
    assert after.group == parts["group"]
    assert after.machines == (parts["machines"][0], *before.machines[1:], parts["machines"][1])
    assert after.rollouts == (ROLLOUT,)
    assert after.tasks == parts["tasks"]
    assert after.hook_events == parts["hook_events"]
    assert after.claims == parts["claims"]
    assert after.calls == ()
    assert [leased.action for leased in claim(fleet, now=at(1))] == list(parts["actions"])
    assert fleet.store.next_wake() == START  # The other group has not been planned.
    assert look(fleet, B.id, now=at(1)).budgets[1].waiting_elsewhere == (Priority.OTHER, at(1))


def test_a_budget_that_moved_stops_the_whole_plan(fleet: Backend) -> None:
    before, mark = read(fleet, now=at(1))
    team = next(b for b in before.budgets if b.id == TEAM)
    fleet.store.observe(MachineId("m_b_0"), Sighting(health=Health.UNHEALTHY), now=at(1))
    moved = look(fleet, now=at(1))
    plan = Plan(**everything(), budget_versions={TEAM: team.version})
    assert not fleet.store.commit_plan(plan, mark, now=at(1))
    assert read(fleet, now=at(1)) == (moved, mark)
    assert claim(fleet, now=at(1)) == []
    assert A.id in fleet.store.due_groups(at(1), 10)
    now = {b.id: b.version for b in moved.budgets if b.id == TEAM}
    assert fleet.store.commit_plan(replace(plan, budget_versions=now), mark, now=at(1))


def test_a_budget_that_is_gone_stops_the_plan(fleet: Backend) -> None:
    _, mark = read(fleet, now=at(1))
    plan = Plan(**everything(), budget_versions={BudgetId("bu_gone"): 0})
    assert not fleet.store.commit_plan(plan, mark, now=at(1))
    assert read(fleet, now=at(1))[1] == mark


def test_of_two_planners_of_one_group_the_later_writes_nothing(fleet: Backend) -> None:
    snapshot, mark = read(fleet, now=at(1))
    other, same_mark = read(fleet, now=at(1))
    assert (snapshot, mark) == (other, same_mark)
    assert fleet.store.commit_plan(Plan(group=other.group), same_mark, now=at(1))
    written = read(fleet, now=at(1))
    assert not fleet.store.commit_plan(Plan(**everything()), mark, now=at(2))
    assert read(fleet, now=at(1)) == written
    assert claim(fleet, now=at(2)) == []


def test_two_groups_cannot_share_the_last_place(fleet: Backend) -> None:
    plans = []
    for group in (A, B):
        snapshot, mark = read(fleet, group.id, now=at(1))
        team = next(b for b in snapshot.budgets if b.id == TEAM)
        rollout = a_rollout(group, 1, now=at(1))
        place = a_claim("team", f"m_{group.name}_0", rollout, now=at(1))
        versions = {TEAM: team.version}
        plans.append((Plan(group=group, claims=(place,), budget_versions=versions), mark, group.id))
    assert [fleet.store.commit_plan(plan, mark, now=at(1)) for plan, mark, _ in plans] == [
        True,
        False,
    ]
    assert look(fleet, B.id, now=at(1)).claims == ()


# What moves a budget's version.


def take(fleet: Backend, *claims: Claim, now: float, **parts: Any) -> None:
    assert commit(fleet, now=at(now), claims=claims, **parts)


def test_a_claim_and_its_end_move_the_budgets_that_select_the_machine(fleet: Backend) -> None:
    before = versions(fleet)
    others = versions(fleet, B.id)
    take(fleet, a_claim("team", FIRST, ROLLOUT, now=at(1)), now=1)
    taken = versions(fleet)
    assert taken["team"] > before["team"]
    assert look(fleet, B.id).budgets[1].used_elsewhere == {"": 1}
    assert commit(fleet, now=at(2), released=((TEAM, FIRST),))
    assert versions(fleet)["team"] > taken["team"]
    assert look(fleet).claims == ()
    assert look(fleet, B.id).budgets[1].used_elsewhere == {}
    assert versions(fleet, B.id)["b"] == others["b"]


def test_a_claim_on_a_machine_that_is_down_moves_the_budget_too(fleet: Backend) -> None:
    """It takes nobody's place, but a rate has counted it."""
    fleet.store.observe(FIRST, Sighting(health=Health.UNHEALTHY), now=at(1))
    before = versions(fleet)["team"]
    take(fleet, a_claim("team", FIRST, ROLLOUT, now=at(1)), now=1)
    assert versions(fleet)["team"] > before


def test_a_machine_counts_once_down_or_claimed_or_both(fleet: Backend) -> None:
    fleet.store.observe(FIRST, Sighting(health=Health.UNHEALTHY), now=at(1))
    take(fleet, a_claim("team", FIRST, ROLLOUT, now=at(1)), now=1)
    assert look(fleet, B.id).budgets[1].used_elsewhere == {"": 1}
    fleet.store.observe(FIRST, Sighting(health=Health.HEALTHY), now=at(2))
    assert look(fleet, B.id).budgets[1].used_elsewhere == {"": 1}
    assert commit(fleet, now=at(2), released=((TEAM, FIRST),))
    assert look(fleet, B.id).budgets[1].used_elsewhere == {}


def test_a_claim_given_back_and_taken_anew_in_one_plan_stands(fleet: Backend) -> None:
    take(fleet, a_claim("team", FIRST, ROLLOUT, now=at(1)), now=1)
    again = a_claim("team", FIRST, a_rollout(A, 2, now=at(2)), now=at(2))
    take(fleet, again, now=2, released=((TEAM, FIRST),))
    assert look(fleet).claims == (again,)


def test_a_machine_that_comes_or_goes_moves_the_budgets_size(fleet: Backend) -> None:
    before = versions(fleet)["team"]
    stopped = replace(look(fleet).machines[0], lifecycle=Lifecycle.STOPPED)
    assert commit(fleet, now=at(1), machines=(stopped,))
    assert versions(fleet)["team"] > before
    assert look(fleet, B.id).budgets[1].size == {"": 5}


# Machines.


def test_a_deleted_machine_leaves_with_its_claims_and_is_not_watched(fleet: Backend) -> None:
    take(fleet, a_claim("team", FIRST, ROLLOUT, now=at(1)), now=1)
    claimed = versions(fleet)["team"]
    leaving = replace(look(fleet).machines[0], lifecycle=Lifecycle.DELETING)
    assert commit(fleet, now=at(2), machines=(leaving,))
    assert look(fleet).machines[0].lifecycle is Lifecycle.DELETING
    assert len(look(fleet).claims) == 1
    gone = replace(leaving, lifecycle=Lifecycle.DELETED)
    assert commit(fleet, now=at(3), machines=(gone,))
    snapshot = look(fleet)
    assert [m.id for m in snapshot.machines] == ["m_a_1", "m_a_2"]
    assert snapshot.claims == ()
    assert versions(fleet)["team"] > claimed
    assert look(fleet, B.id).budgets[1].used_elsewhere == {}
    assert fleet.store.watched([FIRST]) == []
    assert not fleet.store.observe(FIRST, Sighting(health=Health.UNHEALTHY), now=at(4))


def test_what_was_observed_since_the_read_is_not_written_back(fleet: Backend) -> None:
    snapshot, mark = read(fleet, now=at(1))
    fleet.store.observe(FIRST, Sighting(image="1.0.1", boots=2), now=at(1))
    worked = replace(snapshot.machines[0], worked_at=at(1))
    plan = Plan(group=A, machines=(worked,))
    assert fleet.store.commit_plan(plan, mark, now=at(1))
    machine = look(fleet).machines[0]
    assert (machine.image, machine.boots, machine.worked_at) == ("1.0.1", 2, at(1))


def test_an_operators_pause_is_not_undone_by_a_plan_in_flight(fleet: Backend) -> None:
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,))
    snapshot, mark = read(fleet, now=at(2))
    fleet.pause(ROLLOUT.id, True, now=at(2))
    further = replace(snapshot.rollouts[0], batch=1)
    assert fleet.store.commit_plan(Plan(group=A, rollouts=(further,)), mark, now=at(3))
    rollout = look(fleet).rollouts[0]
    assert (rollout.batch, rollout.paused) == (1, True)
    fleet.pause(ROLLOUT.id, False, now=at(4))
    assert not look(fleet).rollouts[0].paused


def test_an_approval_is_not_undone_by_a_plan_in_flight(fleet: Backend) -> None:
    task = a_task(ROLLOUT, FIRST, now=at(1), state=TaskState.HELD)
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,), tasks=(task,))
    snapshot, mark = read(fleet, now=at(2))
    assert fleet.approve(ROLLOUT.id, now=at(2)) == 1
    assert fleet.approve(ROLLOUT.id, "somebody else", now=at(2)) == 0
    further = replace(snapshot.tasks[0], detail="seen")
    assert fleet.store.commit_plan(Plan(group=A, tasks=(further,)), mark, now=at(3))
    (after,) = look(fleet).tasks
    assert (after.detail, after.approved) == ("seen", True)
    assert A.id in fleet.store.due_groups(at(3), 10)


def test_only_machines_that_wait_are_approved(fleet: Backend) -> None:
    task = a_task(ROLLOUT, FIRST, now=at(1))
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,), tasks=(task,))
    assert fleet.approve(ROLLOUT.id, FIRST, now=at(2)) == 0
    assert look(fleet).tasks == (task,)


def test_a_question_is_written_answered_closed_and_leaves_with_its_rollout(fleet: Backend) -> None:
    event = a_question(**{SECOND: Answer.WAITING})
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,), hook_events=(event,))
    assert look(fleet).hook_events == (event,)
    fleet.answer(event, {SECOND: Answer.APPROVED}, now=at(2))
    answers = {FIRST: Answer.WAITING, SECOND: Answer.APPROVED}
    assert look(fleet).hook_events == (replace(event, answers=answers),)
    closed = replace(event, answers={**answers, FIRST: Answer.REJECTED}, closed=True)
    assert commit(fleet, now=at(9), hook_events=(closed,))
    assert look(fleet).hook_events == (closed,)
    ended = replace(ROLLOUT, state=RolloutState.COMPLETED, ended_at=at(10))
    assert commit(fleet, now=at(10), rollouts=(ended,))
    assert look(fleet, now=at(10)).hook_events == ()


def test_an_answer_stops_a_plan_that_takes_silence_for_one(fleet: Backend) -> None:
    event = a_question()
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,), hook_events=(event,))
    _, mark = read(fleet, now=at(9))
    fleet.answer(event, {FIRST: Answer.REJECTED}, now=at(9))
    silent = replace(event, answers={FIRST: Answer.APPROVED}, closed=True)
    assert not fleet.store.commit_plan(Plan(group=A, hook_events=(silent,)), mark, now=at(9))
    assert look(fleet).hook_events[0].answers == {FIRST: Answer.REJECTED}


def test_a_plan_suspends_repairs_and_changes_nothing_else_of_them(backend: Backend) -> None:
    repairs = Repairs(action=RepairAction.REIMAGE, grace=timedelta(minutes=30), resumed_at=at(-5))
    group = replace(A, repairs=repairs)
    backend.add_group(group, machines_of(group, 3, since=at(-60)), now=START)
    assert look(backend).group.repairs == repairs
    suspended = replace(repairs, suspended_at=at(1))
    _, mark = read(backend, now=at(1))
    plan = Plan(group=replace(group, repairs=suspended))
    assert backend.store.commit_plan(plan, mark, now=at(1))
    assert look(backend).group.repairs == suspended


def test_tasks_are_written_over_and_leave_with_their_rollout(fleet: Backend) -> None:
    task = a_task(ROLLOUT, FIRST, now=at(1))
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,), tasks=(task,))
    later = replace(task, state=TaskState.DONE, state_since=at(2), detail="well")
    assert commit(fleet, now=at(2), tasks=(later,))
    assert look(fleet).tasks == (later,)
    ended = replace(ROLLOUT, state=RolloutState.COMPLETED, ended_at=at(3))
    assert commit(fleet, now=at(3), rollouts=(ended,))
    snapshot = look(fleet, now=at(3))
    assert (snapshot.rollouts, snapshot.tasks, snapshot.past) == ((), (), (ended,))


def test_actions_of_one_plan_may_come_in_any_order(fleet: Backend) -> None:
    actions = [an_action(ROLLOUT, f"m_a_{n}", Verb.RESTART) for n in (2, 0, 1)]
    assert commit(fleet, now=at(1), rollouts=(ROLLOUT,), actions=tuple(actions))
    leased: list[Action] = [one.action for one in claim(fleet, now=at(1))]
    assert leased == sorted(actions, key=lambda action: action.key)


# Holds, as others see them.


def waiting(fleet: Backend) -> Any:
    return look(fleet, B.id).budgets[1].waiting_elsewhere


def test_a_holds_since_stays_while_its_reason_stays(fleet: Backend) -> None:
    spent = a_hold(FIRST, HoldReason.BUDGET_SPENT, budget="team")
    assert commit(fleet, now=at(1), holds=(spent,))
    assert commit(fleet, now=at(2), holds=(replace(spent, lifted_by="other words"),))
    assert waiting(fleet) == (Priority.OTHER, at(1))
    elsewhere = a_hold(FIRST, HoldReason.BUDGET_SPENT, budget="a")
    assert commit(fleet, now=at(3), holds=(elsewhere,))
    assert waiting(fleet) is None
    assert commit(fleet, now=at(4), holds=(spent,))
    assert waiting(fleet) == (Priority.OTHER, at(1))
    reserved = replace(spent, reason=HoldReason.BUDGET_RESERVED)
    assert commit(fleet, now=at(5), holds=(reserved,))
    assert waiting(fleet) == (Priority.OTHER, at(5))


def test_a_hold_that_the_plan_does_not_name_is_lifted(fleet: Backend) -> None:
    assert commit(fleet, now=at(1), holds=(a_hold(FIRST, HoldReason.RATE_SPENT, budget="team"),))
    assert waiting(fleet) == (Priority.OTHER, at(1))
    assert commit(fleet, now=at(2))
    assert waiting(fleet) is None


def test_who_waits_first_is_by_priority_and_then_by_time(fleet: Backend) -> None:
    holds = [a_hold(f"m_a_{n}", HoldReason.BUDGET_SPENT, budget="team") for n in range(2)]
    assert commit(fleet, now=at(1), holds=(holds[0],))
    urgent = replace(holds[1], priority=Priority.SECURITY)
    assert commit(fleet, now=at(2), holds=(holds[0], urgent))
    assert waiting(fleet) == (Priority.SECURITY, at(2))
    assert commit(fleet, now=at(3), holds=tuple(holds))
    assert waiting(fleet) == (Priority.OTHER, at(1))


def test_who_waits_for_a_place_is_due_when_one_moves(fleet: Backend) -> None:
    spent = a_hold("m_b_0", HoldReason.BUDGET_SPENT, budget="team")
    take(fleet, a_claim("team", FIRST, ROLLOUT, now=at(1)), now=1)
    assert commit(fleet, B.id, now=at(2), holds=(spent,))
    assert fleet.store.due_groups(at(2), 10) == []
    assert commit(fleet, now=at(3), released=((TEAM, FIRST),))
    assert fleet.store.due_groups(at(3), 10) == [B.id]


def test_taking_a_place_does_not_make_the_taker_due(fleet: Backend) -> None:
    spent = a_hold("m_a_1", HoldReason.BUDGET_SPENT, budget="team")
    assert commit(fleet, B.id, now=at(1))
    take(fleet, a_claim("team", FIRST, ROLLOUT, now=at(1)), now=1, holds=(spent,))
    assert fleet.store.due_groups(at(1), 10) == []


def test_a_call_is_answered_once(fleet: Backend) -> None:
    for number in (1, 2):
        call = OperatorCall(id=f"ca_{number}", verb=Verb.RESTART, machines=(FIRST,), actor="me")
        fleet.add_call(A.id, call, now=at(number))
    assert [call.id for call in look(fleet).calls] == ["ca_1", "ca_2"]
    assert commit(fleet, now=at(3), calls_done=(("ca_1", "no machine was named"),))
    assert [call.id for call in look(fleet).calls] == ["ca_2"]
    assert commit(fleet, now=at(4), calls_done=(("ca_1", ""), ("ca_2", "")))
    assert look(fleet).calls == ()


def test_rollouts_of_groups_do_not_mix(fleet: Backend) -> None:
    for group in (A, B):
        rollout = a_rollout(group, 1, now=at(1))
        task = a_task(rollout, f"m_{group.name}_0", now=at(1))
        assert commit(fleet, group.id, now=at(1), rollouts=(rollout,), tasks=(task,))
    assert [r.id for r in look(fleet).rollouts] == [RolloutId("ro_g_a_1")]
    assert [t.machine for t in look(fleet, B.id).tasks] == ["m_b_0"]

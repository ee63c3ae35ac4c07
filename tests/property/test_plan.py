"""What is true of every plan, whatever happens.  Each test is one sentence of DESIGN §5."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from tests.property.worlds import Played, World, heal, play, worlds

from upkeep.core.blame import lost_domains
from upkeep.core.budget import allowed_down, is_down
from upkeep.core.draft import domain_names
from upkeep.core.model import (
    Budget,
    Health,
    Lifecycle,
    Machine,
    MachineId,
    RolloutState,
    StartedBy,
    System,
    Verb,
)
from upkeep.core.plan import plan_group
from upkeep.core.snapshot import Action, Plan, Snapshot
from upkeep.core.task import IN_HAND
from upkeep.core.version import is_older, latest

# What ended in the last step of a plan is settled in the next one, a millisecond later.
SOON = timedelta(milliseconds=1)

some = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

TAKES_DOWN = frozenset(
    {
        Verb.STOP,
        Verb.RESTART,
        Verb.REPLACE_OS_DISK,
        Verb.REIMAGE,
        Verb.SWITCH_BACK,
        Verb.DELETE,
    }
)


def selects(budget: Budget, machine: MachineId) -> bool:
    return budget.members is None or machine in budget.members


def places(budget: Budget, machines: Iterable[Machine], claimed: set[MachineId]) -> dict[str, int]:
    """Machines that count in the budget, by zone, told from the rows alone."""
    used: dict[str, int] = {}
    for machine in machines:
        if selects(budget, machine.id) and (is_down(machine) or machine.id in claimed):
            zone = machine.zone if budget.per_zone else ""
            used[zone] = used.get(zone, 0) + 1
    return used


def check_places(before: Snapshot, plan: Plan, story: Played) -> None:
    seen = {m.id: m for m in before.machines}
    # A budget is as large as before the plan, or smaller if machines left it in the plan.
    for budget, smaller in zip(before.budgets, story.snapshot().budgets, strict=True):
        claimed = {c.machine for c in before.claims if c.budget == budget.id}
        taken = {c.machine for c in plan.claims if c.budget == budget.id and not c.overdraft}
        released = {m for b, m in plan.released if b == budget.id}
        new = {m for m in taken if m not in claimed and not is_down(seen[m])}
        after = (claimed - released) | taken
        used = places(budget, story.machines.values(), after)
        for machine in new:
            zone = seen[machine].zone if budget.per_zone else ""
            allowed = [allowed_down(b, zone=zone) for b in (budget, smaller)]
            assert used[zone] <= min(allowed), (budget, machine)


def check_covered(before: Snapshot, plan: Plan, story: Played) -> None:
    """Whoever is taken down, ill or well, holds a claim on each budget that selects it."""
    seen = {m.id: m for m in before.machines}
    held = {(c.budget, c.machine) for c in story.claims}
    for action in plan.actions:
        machine = seen.get(action.machine)
        if (
            machine is None
            or action.verb not in TAKES_DOWN
            or machine.lifecycle is not Lifecycle.PRESENT
        ):
            continue
        for budget in before.budgets:
            assert not selects(budget, machine.id) or (budget.id, machine.id) in held, action


@some
@given(worlds)
def test_never_more_than_a_budget_allows_are_taken_down(world: World) -> None:
    play(world, check_places)


@some
@given(worlds)
def test_nobody_is_taken_down_without_a_claim_on_every_budget(world: World) -> None:
    play(world, check_covered)


def check_one_work(before: Snapshot, plan: Plan, story: Played) -> None:
    for machine in story.machines.values():
        assert len(story.in_hand(machine.id)) <= 1
        waiting = [
            a
            for _, written in story.plans
            for a in written.actions
            if a.machine == machine.id and a.verb is not Verb.DRAIN and a.key not in story.outcomes
        ]
        assert len(waiting) <= 1


@some
@given(worlds)
def test_a_machine_never_has_two_works_at_once(world: World) -> None:
    play(world, check_one_work)


def check_explained(before: Snapshot, plan: Plan, story: Played) -> None:
    target = latest(before.versions)
    held = {hold.machine for hold in plan.holds if hold.system is System.OS_IMAGE}
    assert len({(h.machine, h.system) for h in plan.holds}) == len(plan.holds)
    if target is None:
        return
    for machine in story.machines.values():
        if machine.lifecycle is Lifecycle.PRESENT and is_older(machine.image or "9", target):
            assert machine.id in held or story.in_hand(machine.id), machine


@some
@given(worlds)
def test_every_outdated_machine_has_an_action_in_hand_or_a_hold(world: World) -> None:
    play(world, check_explained)


def check_keys(before: Snapshot, plan: Plan, story: Played) -> None:
    sent: dict[str, Action] = {}
    for _, earlier in story.plans:
        for action in earlier.actions:
            assert action.key not in sent, action
            sent[action.key] = action


@some
@given(worlds)
def test_a_key_names_one_intent_and_is_used_once(world: World) -> None:
    story = play(world, lambda before, plan, story: None)
    check_keys(story.snapshot(), story.plans[-1][1], story)


def check_claims_stay(before: Snapshot, plan: Plan, story: Played) -> None:
    for _, machine_id in plan.released:
        machine = story.machines.get(machine_id)
        if machine is not None and machine.lifecycle is Lifecycle.PRESENT:
            # A task dropped in this plan has ended; a task still in hand keeps its claims, and a
            # machine released and taken again in one plan has them anew.
            taken_again = any(c.machine == machine_id for c in plan.claims)
            in_hand = any(t.state in IN_HAND for t in story.in_hand(machine_id))
            assert taken_again or not in_hand, machine


@some
@given(worlds)
def test_a_claim_is_never_given_back_while_its_task_is_in_hand(world: World) -> None:
    play(world, check_claims_stay)


def check_guilty(before: Snapshot, plan: Plan, story: Played) -> None:
    guilty = {r.target for r in before.past if r.guilty}
    known = {r.id for r in (*before.rollouts, *before.past)}
    for rollout in plan.rollouts:
        if rollout.id not in known and rollout.system is System.OS_IMAGE:
            assert rollout.started_by is StartedBy.USER or rollout.target not in guilty


@some
@given(worlds)
def test_a_guilty_version_is_never_begun_again_by_itself(world: World) -> None:
    play(world, check_guilty)


def check_halted(before: Snapshot, plan: Plan, story: Played) -> None:
    for action in plan.actions:
        rollout = story.rollouts[action.rollout]
        task = story.tasks[action.rollout, action.machine]
        forward = action.verb is rollout.verb and action.version == rollout.target
        if forward and task.attempt == 1:
            assert rollout.state is RolloutState.RUNNING, action


@some
@given(worlds)
def test_halted_means_that_nothing_new_starts(world: World) -> None:
    play(world, check_halted)


def check_idempotent(before: Snapshot, plan: Plan, story: Played) -> None:
    seen = {m.id: m.lifecycle for m in before.machines}
    if any(seen.get(m.id, m.lifecycle) is not m.lifecycle for m in plan.machines):
        return  # It enters or leaves budgets and domains, which is news.
    again = plan_group(story.snapshot(), now=story.now)
    if plan.next_wake is not None and plan.next_wake - story.now <= SOON:
        return
    assert again.actions == (), again.actions
    assert again.claims == ()
    assert again.released == ()
    assert again.tasks == ()
    assert again.rollouts == ()
    # The reason may become another (who found no place left now waits for the batch), and who was
    # held when the plan began may be in hand at its end.
    waiting = [(h.machine, h.system) for h in plan.holds if not story.in_hand(h.machine)]
    assert [(h.machine, h.system) for h in again.holds if not story.in_hand(h.machine)] == waiting


@some
@given(worlds)
def test_planning_again_at_the_same_moment_changes_nothing(world: World) -> None:
    play(world, check_idempotent)


def check_future(before: Snapshot, plan: Plan, story: Played) -> None:
    assert plan.next_wake is None or plan.next_wake > story.now
    for hold in plan.holds:
        assert hold.until is None or hold.until > story.now, hold
        assert hold.until is None or plan.next_wake is not None
        assert hold.lifted_by


@some
@given(worlds)
def test_the_next_wake_and_the_end_of_each_hold_lie_in_the_future(world: World) -> None:
    play(world, check_future)


def check_approved(before: Snapshot, plan: Plan, story: Played) -> None:
    approved = {(t.rollout, t.machine) for t in before.tasks if t.approved}
    for task in plan.tasks:
        rollout = story.rollouts[task.rollout]
        asked = rollout.system is System.OS_IMAGE and rollout.started_by is StartedBy.PLATFORM
        if asked and task.batch:
            assert (task.rollout, task.machine) in approved, task


@some
@given(worlds)
def test_where_approval_is_needed_nobody_is_taken_without_it(world: World) -> None:
    play(replace(world, policy=replace(world.policy, needs_approval=True)), check_approved)


def check_unknown(before: Snapshot, plan: Plan, story: Played) -> None:
    lost = {(d.kind, d.name) for d in lost_domains(before.domains, now=story.now)}
    seen = {m.id: m for m in before.machines}
    for action in plan.actions:
        rollout = story.rollouts[action.rollout]
        machine = seen.get(action.machine)
        if machine is None or rollout.system is not System.OS_IMAGE:
            continue
        if machine.health is Health.UNKNOWN:
            assert action.version != rollout.target, action
        if not rollout.force:
            assert not lost & set(domain_names(machine)), action


@some
@given(worlds)
def test_the_unknown_are_not_upgraded_and_in_a_lost_domain_nothing_begins(world: World) -> None:
    play(world, check_unknown)


@some
@given(worlds)
def test_when_all_is_well_again_every_machine_gets_the_newest_version(world: World) -> None:
    story = play(world, lambda before, plan, story: None)
    heal(story)
    story.run_on(minutes=60 * 24 * 4)
    for machine in story.machines.values():
        assert machine.image in ("2.0.0", "") or machine.lifecycle is Lifecycle.STOPPED, story.holds

"""Several replicas on one database: each thing is one's, and nobody waits for ever.

Threads meet at a barrier before each round, so that their transactions overlap; what is asserted
holds whichever is faster.  The simulated store has one thread and is not here.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fleet_stores import (
    START,
    SqlBackend,
    a_budget,
    a_claim,
    a_group,
    a_hold,
    a_rollout,
    a_task,
    an_action,
    at,
    commit,
    look,
    machines_of,
    new_postgres,
    new_sqlite,
    read,
    versions,
)
from sqlalchemy import event, select

from upkeep.core.hold import HoldReason
from upkeep.core.model import BudgetId, Group, Health, MachineId, Verb
from upkeep.core.snapshot import Action, Plan
from upkeep.engine.fleet_store import ActionResult, LeasedAction, Sighting
from upkeep.store import groups
from upkeep.store import tables as t

R = TypeVar("R")

REPLICAS = 4
ROUNDS = 15
# Only a deadlock that nobody ends takes so long.
PATIENCE_S = 60

A, B = a_group("a"), a_group("b")


@pytest.fixture(params=["sqlite", "postgres"])
def backend(
    request: pytest.FixtureRequest, sqlite_template: Path, tmp_path: Path
) -> Iterator[SqlBackend]:
    made = (
        new_sqlite(sqlite_template, tmp_path)
        if request.param == "sqlite"
        else new_postgres(request.getfixturevalue("postgres_url"))
    )
    yield made
    made.close()


def at_once(*steps: Callable[[], R]) -> list[R]:
    """What each step answers; all begin together."""
    barrier = threading.Barrier(len(steps))

    def run(step: Callable[[], R]) -> R:
        barrier.wait(PATIENCE_S)
        return step()

    with ThreadPoolExecutor(len(steps)) as pool:
        futures = [pool.submit(run, step) for step in steps]
        return [future.result(PATIENCE_S) for future in futures]


def enqueue(backend: SqlBackend, count: int) -> list[str]:
    rollout = a_rollout(A, 1, now=START)
    actions = [an_action(rollout, f"m_a_{n}", Verb.RESTART) for n in range(count)]
    assert commit(backend, now=START, rollouts=(rollout,), actions=tuple(actions))
    return [action.key for action in actions]


def test_no_action_is_leased_twice(backend: SqlBackend) -> None:
    backend.add_group(A, machines_of(A, 60, since=START), now=START)
    backend.add_budget(a_budget("a"), A.id, own=True, now=START)
    keys = enqueue(backend, 60)
    leased: list[str] = []

    def claim_all(owner: int) -> list[str]:
        mine: list[str] = []
        for _ in range(len(keys)):
            batch = backend.store.claim_actions(
                f"replica {owner}", now=at(1), lease_until=at(9), limit=3
            )
            mine += [one.action.key for one in batch]
        return mine

    steps: list[Callable[[], list[str]]] = [partial(claim_all, n) for n in range(REPLICAS)]
    for mine in at_once(*steps):
        leased += mine
    assert sorted(leased) == sorted(keys)


def test_a_lease_that_ran_out_goes_to_one(backend: SqlBackend) -> None:
    backend.add_group(A, machines_of(A, 10, since=START), now=START)
    keys = enqueue(backend, 10)
    fences = dict.fromkeys(keys, 0)
    for number in range(ROUNDS):
        now = at(1 + number)
        found: list[LeasedAction] = []
        claim = partial(
            backend.store.claim_actions,
            "replica",
            now=now,
            lease_until=now + (at(1) - at(0)),
            limit=10,
        )
        for batch in at_once(*[claim] * REPLICAS):
            found += batch
        assert sorted(one.action.key for one in found) == sorted(keys)
        assert all(one.fence > fences[one.action.key] for one in found)
        fences = {one.action.key: one.fence for one in found}


def test_an_outcome_is_recorded_once(backend: SqlBackend) -> None:
    backend.add_group(A, machines_of(A, 10, since=START), now=START)
    enqueue(backend, 10)
    for one in backend.store.claim_actions("r", now=at(1), lease_until=at(9), limit=10):
        results = [ActionResult(succeeded=True, detail=f"replica {n}") for n in range(REPLICAS)]
        finish = partial(backend.store.finish_action, one.action.key, fence=one.fence, now=at(2))
        steps: list[Callable[[], bool]] = [partial(finish, result=r) for r in results]
        told = at_once(*steps)
        assert sorted(told) == [False] * (REPLICAS - 1) + [True]
        detail = look(backend, now=at(2)).outcomes[one.action.key].detail
        assert detail == f"replica {told.index(True)}"


def test_of_planners_of_one_group_one_writes(backend: SqlBackend) -> None:
    backend.add_group(A, machines_of(A, 3, since=START), now=START)
    rollout = a_rollout(A, 1, now=START)
    for number in range(ROUNDS):
        _, mark = read(backend, now=at(number))
        plans = [
            Plan(
                group=A,
                rollouts=(rollout,),
                tasks=(a_task(rollout, f"m_a_{n % 3}", now=at(number), attempt=n),),
                actions=(
                    an_action(rollout, f"m_a_{n % 3}", Verb.RESTART, attempt=10 * number + n),
                ),
            )
            for n in range(REPLICAS)
        ]
        steps: list[Callable[[], bool]] = [
            partial(backend.store.commit_plan, p, mark, now=at(number)) for p in plans
        ]
        told = at_once(*steps)
        assert sorted(told) == [False] * (REPLICAS - 1) + [True]
        assert plans[told.index(True)].tasks[0] in look(backend).tasks
        batch = backend.store.claim_actions("r", now=at(number), lease_until=at(999), limit=9)
        assert [one.action for one in batch] == list(plans[told.index(True)].actions)


def test_the_last_place_goes_to_one_group(backend: SqlBackend) -> None:
    """And two groups that wait for one budget never wait for each other."""
    for group in (A, B):
        backend.add_group(group, machines_of(group, 2, since=START), now=START)
        backend.add_budget(a_budget(group.name), group.id, own=True, now=START)
    backend.add_budget(a_budget("team"), A.id, B.id, now=START)
    team = BudgetId("bu_team")
    for number in range(ROUNDS):
        steps: list[Callable[[], bool]] = []
        for group in (A, B):
            snapshot, mark = read(backend, group.id, now=at(number))
            place = a_claim("team", f"m_{group.name}_0", a_rollout(group, 1, now=START), now=START)
            plan = Plan(
                group=group,
                claims=(place,),
                budget_versions={b.id: b.version for b in snapshot.budgets if b.id == team},
                holds=(a_hold(f"m_{group.name}_1", HoldReason.BUDGET_SPENT, budget="team"),),
            )
            steps.append(partial(backend.store.commit_plan, plan, mark, now=at(number)))
        assert sorted(at_once(*steps)) == [False, True]
        taken = [claim for g in (A, B) for claim in look(backend, g.id).claims]
        assert len(taken) == 1
        winner = f"g_{taken[0].machine.split('_')[1]}"
        spent = a_hold(f"m_{winner[-1]}_1", HoldReason.BUDGET_SPENT, budget="team")
        given_back = ((team, taken[0].machine),)
        assert commit(backend, winner, now=at(number), released=given_back, holds=(spent,))


def plan_often(backend: SqlBackend, group: Group) -> None:
    """Plans that touch every machine, give all places back and take others, in no order."""
    rollout = a_rollout(group, 1, now=START)
    for number in range(ROUNDS):
        snapshot = look(backend, group.id, now=at(number))
        held = {claim.machine for claim in snapshot.claims}
        names = [m.id for m in snapshot.machines]
        claims = [
            a_claim(budget, name, rollout, now=at(number))
            for name in reversed(names[number % 3 :: 3])
            if name not in held
            for budget in ("y", "x", group.name)
        ]
        actions = [
            an_action(rollout, name, Verb.RESTART, attempt=number) for name in reversed(names)
        ]
        commit(
            backend,
            group.id,
            now=at(number),
            rollouts=(rollout,),
            machines=snapshot.machines,
            claims=tuple(claims),
            released=tuple((c.budget, c.machine) for c in snapshot.claims),
            actions=tuple(actions),
            holds=tuple(a_hold(n, HoldReason.BUDGET_SPENT, budget="x") for n in names),
        )


def test_plans_sightings_outcomes_and_operators_end_in_no_deadlock(backend: SqlBackend) -> None:
    """Each of them locks some of the same actions, budgets, groups and machines."""
    ended: list[str] = []
    event.listen(backend.database.engine, "handle_error", lambda c: ended.append(str(c)))
    for group in (A, B):
        backend.add_group(group, machines_of(group, 6, since=START), now=START)
        backend.add_budget(a_budget(group.name, max_down=9), group.id, own=True, now=START)
    for name in ("x", "y"):
        backend.add_budget(a_budget(name, max_down=9), A.id, B.id, now=START)

    def watch(group: Group) -> None:
        for number in range(6 * ROUNDS):
            health = (Health.HEALTHY, Health.UNHEALTHY, Health.UNKNOWN)[number % 3]
            machine = MachineId(f"m_{group.name}_{number % 6}")
            sighting = Sighting(health=health, boots=number, phase=number)
            backend.store.observe(machine, sighting, now=at(number))

    def execute() -> None:
        for number in range(2 * ROUNDS):
            taken = backend.store.claim_actions("r", now=at(99), lease_until=at(999), limit=4)
            for one in reversed(taken):
                result = ActionResult(succeeded=True, detail=str(number))
                backend.store.finish_action(
                    one.action.key, fence=one.fence, result=result, now=at(99)
                )

    def operate() -> None:
        row = t.groups.c
        for number in range(ROUNDS):
            with backend.database.write() as connection:
                policy = connection.execute(select(row.policy).where(row.id == A.id)).scalar_one()
                groups.change(connection, A.id, {"policy": policy}, now=at(number))

    at_once(
        lambda: plan_often(backend, A),
        lambda: plan_often(backend, B),
        lambda: watch(A),
        lambda: watch(B),
        execute,
        operate,
    )
    assert ended == []
    assert {b for b, version in versions(backend).items() if version == 0} == set()


def test_the_clocks_mark_is_the_highest_that_anybody_raised(backend: SqlBackend) -> None:
    for number in range(ROUNDS):
        steps: list[Callable[[], Any]] = [
            partial(backend.store.raise_clock_mark, at(10 * number + minute))
            for minute in (3, 1, 4, 2)
        ]
        at_once(*steps)
        assert backend.store.raise_clock_mark(START) == at(10 * number + 4)


def test_one_key_written_by_many_is_one_action(backend: SqlBackend) -> None:
    """Two groups would never derive one key; if they did, it would still be done once."""
    for group in (A, B):
        backend.add_group(group, machines_of(group, 8, since=START), now=START)
    rollout = a_rollout(A, 1, now=START)
    actions: list[Action] = [an_action(rollout, f"m_a_{n}", Verb.RESTART) for n in range(8)]
    steps: list[Callable[[], bool]] = [
        lambda: commit(backend, A.id, now=START, actions=tuple(actions)),
        lambda: commit(backend, B.id, now=START, actions=tuple(reversed(actions))),
    ]
    assert at_once(*steps) == [True, True]
    batch = backend.store.claim_actions("r", now=at(1), lease_until=at(9), limit=99)
    assert sorted(one.action.key for one in batch) == sorted(a.key for a in actions)

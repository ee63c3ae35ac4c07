"""How many may be down, and whether one more may be."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.core.story import START, machines_of, one_version_newer, share

from upkeep.core.budget import (
    RESERVED_LOOK,
    Ledger,
    allowed_down,
    is_reserved,
)
from upkeep.core.hold import HoldReason
from upkeep.core.model import (
    Budget,
    BudgetId,
    Claim,
    Health,
    Lifecycle,
    Machine,
    MachineId,
    Priority,
    RolloutId,
    System,
    Verb,
)
from upkeep.core.policy import share_of


def budget(name: str = "b", *, size: int = 10, **fields: object) -> Budget:
    limits = fields if {"max_down", "min_available"} & fields.keys() else {"max_down": 1, **fields}
    sizes = limits.pop("sizes", {"": size})
    return Budget(id=BudgetId(name), name=name, size=sizes, **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("percent", "size", "allowed"),
    [(20, 6, 1), (20, 10, 2), (20, 20, 4), (20, 4, 1), (20, 1, 1), (99, 2, 1), (100, 3, 3)],
)
def test_a_share_that_may_be_down_is_rounded_down_and_never_below_one(
    percent: int, size: int, allowed: int
) -> None:
    assert share_of(percent, size=size) == allowed
    assert allowed_down(budget(max_down=percent, percent=True, size=size)) == allowed


@pytest.mark.parametrize(
    ("needed", "percent", "size", "allowed"),
    [
        (8, False, 10, 2),
        (10, False, 10, 0),
        (12, False, 10, 0),
        (85, True, 10, 1),  # 8.5 must stay up, so 9.
        (80, True, 10, 2),
        (81, True, 10, 1),
        (100, True, 10, 0),
        (0, True, 10, 10),
        (50, True, 1, 0),
    ],
)
def test_what_must_stay_up_is_rounded_up(
    needed: int, percent: bool, size: int, allowed: int
) -> None:
    assert allowed_down(budget(min_available=needed, percent=percent, size=size)) == allowed


def test_a_count_is_taken_as_it_is() -> None:
    assert [allowed_down(budget(max_down=n)) for n in (0, 1, 3)] == [0, 1, 3]


def test_a_budget_per_zone_looks_at_the_machine_s_zone() -> None:
    per_zone = budget(max_down=50, percent=True, per_zone=True, sizes={"a": 6, "b": 2})
    assert [allowed_down(per_zone, zone=z) for z in "ab"] == [3, 1]


def ledger(*budgets: Budget, ill: str = "", claimed: str = "", zones: str = "a") -> Ledger:
    """Four machines m0 to m3; `ill` and `claimed` name some by their number."""
    machines: dict[MachineId, Machine] = {}
    for machine in machines_of(4, zones=tuple(zones)):
        health = Health.UNHEALTHY if machine.name[1] in ill else Health.HEALTHY
        machines[machine.id] = replace(machine, health=health)
    claims = [
        Claim(
            budget=b.id,
            machine=MachineId(f"m{number}"),
            rollout=RolloutId("ro_1"),
            taken_at=START,
        )
        for number in claimed
        for b in budgets
    ]
    return Ledger(budgets, machines, claims)


def refusal(books: Ledger, machine: str) -> HoldReason | None:
    hold = books.refusal(
        MachineId(machine),
        system=System.OS_IMAGE,
        priority=Priority.OTHER,
        waiting_since=START,
        now=START,
    )
    return hold.reason if hold else None


@pytest.mark.parametrize(
    ("max_down", "ill", "claimed", "answer"),
    [
        (1, "", "", None),
        (1, "0", "", HoldReason.BUDGET_SPENT),
        (1, "", "0", HoldReason.BUDGET_SPENT),
        (2, "0", "0", None),  # Down and claimed counts once.
        (2, "0", "1", HoldReason.BUDGET_SPENT),
        (1, "3", "", None),  # Down already: taking it costs nobody anything more.
        (0, "", "", HoldReason.BUDGET_SPENT),
    ],
)
def test_a_machine_counts_once_whether_down_or_claimed(
    max_down: int, ill: str, claimed: str, answer: HoldReason | None
) -> None:
    assert refusal(ledger(budget(max_down=max_down), ill=ill, claimed=claimed), "m3") is answer


def test_machines_of_other_groups_count_too() -> None:
    elsewhere = budget(max_down=2, used_elsewhere={"": 2})
    assert refusal(ledger(elsewhere), "m0") is HoldReason.BUDGET_SPENT


def test_zones_are_counted_apart() -> None:
    books = ledger(budget(max_down=1, per_zone=True, sizes={"a": 2, "b": 2}), ill="0", zones="ab")
    assert refusal(books, "m2") is HoldReason.BUDGET_SPENT  # Zone a, like m0.
    assert refusal(books, "m1") is None


def test_every_budget_must_have_a_place() -> None:
    wide, narrow = budget("wide", max_down=3), budget("narrow", max_down=0)
    assert refusal(ledger(wide, narrow), "m0") is HoldReason.BUDGET_SPENT
    others = replace(narrow, members=frozenset({MachineId("m1")}))
    assert refusal(ledger(wide, others), "m0") is None


def test_taking_one_leaves_one_less_and_claims_on_all() -> None:
    books = ledger(budget("one", max_down=1), budget("two", max_down=2))
    taken = books.take(MachineId("m0"), RolloutId("ro_1"), overdraft=False, now=START)
    assert [(c.budget, c.machine) for c in taken] == [("one", "m0"), ("two", "m0")]
    assert refusal(books, "m1") is HoldReason.BUDGET_SPENT


def test_a_place_given_back_is_free_in_the_same_plan_unless_the_machine_is_ill() -> None:
    well = ledger(budget(max_down=1), claimed="0")
    well.give_back(MachineId("m0"))
    assert refusal(well, "m1") is None
    ill = ledger(budget(max_down=1), claimed="0", ill="0")
    ill.give_back(MachineId("m0"))
    assert refusal(ill, "m1") is HoldReason.BUDGET_SPENT


def test_a_machine_that_was_stopped_gives_its_place_back() -> None:
    machines = {m.id: replace(m, lifecycle=Lifecycle.STOPPED) for m in machines_of(1)}
    claim = Claim(
        budget=BudgetId("b"), machine=MachineId("m0"), rollout=RolloutId("r"), taken_at=START
    )
    books = Ledger([budget(max_down=1)], machines, [claim])
    books.give_back(MachineId("m0"))
    assert refusal(books, "m1") is None


def test_a_rate_counts_starts_of_the_period_and_says_until_when() -> None:
    minute = timedelta(minutes=1)
    limited = budget(
        max_down=9,
        rate=2,
        rate_period=10 * minute,
        started=(START - 9 * minute, START - 4 * minute),
    )
    hold = ledger(limited).refusal(
        MachineId("m0"),
        system=System.OS_IMAGE,
        priority=Priority.OTHER,
        waiting_since=START,
        now=START,
    )
    assert hold is not None
    assert (hold.reason, hold.until) == (HoldReason.RATE_SPENT, START + minute)
    over = replace(limited, started=(START - 10 * minute, START - 4 * minute))
    assert refusal(ledger(over), "m0") is None  # The first start is a full period ago.


def test_a_rate_counts_the_starts_of_this_very_plan() -> None:
    books = ledger(budget(max_down=9, rate=1, rate_period=timedelta(hours=1)))
    books.take(MachineId("m0"), RolloutId("ro_1"), overdraft=False, now=START)
    assert refusal(books, "m1") is HoldReason.RATE_SPENT


@pytest.mark.parametrize(
    ("theirs", "waited_min", "reserved"),
    [
        (Priority.OTHER, 59, False),
        (Priority.OTHER, 60, True),  # Older than ours, which begins now.
        (Priority.SECURITY, 60, True),
        (Priority.OPERATOR, 61, True),
    ],
)
def test_who_has_waited_an_hour_goes_before_newer_work(
    theirs: Priority, waited_min: int, reserved: bool
) -> None:
    since = START - timedelta(minutes=waited_min)
    waiting = replace(share(20), waiting_elsewhere=(theirs, since))
    assert is_reserved(waiting, priority=Priority.OTHER, waiting_since=START, now=START) is reserved


def test_who_has_waited_does_not_go_before_older_or_more_urgent_work() -> None:
    since = START - timedelta(hours=2)
    waiting = replace(share(20), waiting_elsewhere=(Priority.OTHER, since))
    older = START - timedelta(hours=3)
    assert not is_reserved(waiting, priority=Priority.OTHER, waiting_since=older, now=START)
    assert not is_reserved(waiting, priority=Priority.OPERATOR, waiting_since=START, now=START)


def test_what_is_spent_is_named_before_what_others_wait_for() -> None:
    """Work that waits for the one must not look as if it waited for the other, and keep it."""
    waited = (Priority.OTHER, START - timedelta(hours=2))
    first = budget("first", max_down=1, waiting_elsewhere=waited)
    spent = budget("spent", max_down=0)
    assert refusal(ledger(first, spent), "m0") is HoldReason.BUDGET_SPENT
    assert refusal(ledger(first), "m0") is HoldReason.BUDGET_RESERVED


def test_who_gave_way_looks_again_when_the_work_before_it_has_gone_without_a_word() -> None:
    waited = (Priority.OTHER, START - timedelta(hours=2))
    gives_way = replace(share(20), waiting_elsewhere=waited)
    story = one_version_newer(machines_of(5), budgets=(gives_way,))
    story.rest()
    assert story.hold("m0") is HoldReason.BUDGET_RESERVED
    assert story.next_wake is not None
    assert START < story.next_wake <= START + RESERVED_LOOK
    story.budgets = (share(20),)  # Nobody marks the group.
    story.run(minutes=10)
    assert story.sent(Verb.REPLACE_OS_DISK)[0] == "m0"

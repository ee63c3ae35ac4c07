"""Which version is newer, and who goes first."""

from dataclasses import replace

import pytest
from tests.core.story import machines_of

from upkeep.core.availability import batch_order, may_share_batch
from upkeep.core.model import Health, Machine
from upkeep.core.version import ImageVersion, ReplicationState, is_older, is_version, latest


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.9.0", "1.10.0"),
        ("1.9", "1.10"),
        ("2.0", "10.0"),
        ("1.0", "1.0.1"),
        ("1.0.0.9", "1.0.1"),
        ("", "0.0.0"),
    ],
)
def test_versions_are_ordered_by_number(older: str, newer: str) -> None:
    assert is_older(older, newer)
    assert not is_older(newer, older)


def test_missing_parts_count_as_zero() -> None:
    assert not is_older("1.0", "1.0.0.0")
    assert not is_older("1.0.0.0", "1.0")


@pytest.mark.parametrize("text", ["1", "1.0-rc1", "1.0.0.0.0", "v1.0", "1..0", "", "1.0\n"])
def test_what_is_not_a_version(text: str) -> None:
    assert not is_version(text)


@pytest.mark.parametrize(
    ("versions", "answer"),
    [
        ([], None),
        ([ImageVersion(version="1.9.0"), ImageVersion(version="1.10.0")], "1.10.0"),
        (
            [ImageVersion(version="1.0.0"), ImageVersion(version="1.0.1", excluded=True)],
            "1.0.0",
        ),
        *[
            ([ImageVersion(version="1.0.0"), ImageVersion(version="1.0.1", replication=r)], "1.0.0")
            for r in ReplicationState
            if r is not ReplicationState.COMPLETED
        ],
    ],
)
def test_latest_is_the_highest_that_is_replicated_and_not_excluded(
    versions: list[ImageVersion], answer: str | None
) -> None:
    assert latest(versions) == answer


def names(machines: list[Machine], *, unhealthy_first: bool = True) -> list[str]:
    return [m.name for m in batch_order(machines, unhealthy_first=unhealthy_first)]


def a(name: str, **fields: object) -> Machine:
    return replace(machines_of(1)[0], id=name, name=name, **fields)  # type: ignore[arg-type]


def test_zones_then_update_domains_then_ids() -> None:
    machines = [
        a("m1", zone="b", update_domain=0),
        a("m2", zone="a", update_domain=1),
        a("m3", zone="a", update_domain=0),
        a("m4", zone="a", update_domain=0),
    ]
    assert names(machines) == ["m3", "m4", "m2", "m1"]


def test_fault_domains_take_turns() -> None:
    machines = [
        a("a1", fault_domain=0),
        a("a2", fault_domain=0),
        a("b1", fault_domain=1),
        a("b2", fault_domain=1),
    ]
    assert names(machines) == ["a1", "b1", "a2", "b2"]


def test_the_unhealthy_go_first_within_their_phase_if_the_policy_says_so() -> None:
    machines = [
        a("m1", zone="a"),
        a("m2", zone="b", health=Health.UNHEALTHY),
        a("m3", zone="b", health=Health.UNHEALTHY, phase=0),
    ]
    assert names(machines) == ["m3", "m2", "m1"]
    assert names(machines, unhealthy_first=False) == ["m3", "m1", "m2"]


@pytest.mark.number("os-image", "phases")
def test_phases_ascend_and_no_phase_is_the_last() -> None:
    machines = [a("m1"), a("m2", phase=7), a("m3", phase=0), a("m4", phase=7)]
    assert names(machines) == ["m3", "m2", "m4", "m1"]


@pytest.mark.parametrize(
    ("other", "cross_zone", "together"),
    [
        (a("m2", zone="a"), False, True),
        (a("m2", zone="b"), False, False),
        (a("m2", zone="b"), True, True),
        (a("m2", zone="a", update_domain=1), True, False),
        (a("m2", zone="a", phase=0), True, False),
        (a("m2", zone="a", fault_domain=1), False, True),
    ],
)
def test_a_batch_stays_in_one_phase_zone_and_update_domain(
    other: Machine, cross_zone: bool, together: bool
) -> None:
    assert may_share_batch(a("m1", zone="a"), other, cross_zone=cross_zone) is together

"""When a group is due: marks, wakes, parking; and the mark of the engine's clock."""

from datetime import timedelta

import pytest
from fleet_stores import START, Backend, a_group, at, commit, machines_of, read

from upkeep.core.model import GroupId
from upkeep.core.snapshot import Plan

A, B, C = GroupId("g_a"), GroupId("g_b"), GroupId("g_c")


@pytest.fixture
def fleet(backend: Backend) -> Backend:
    """Three groups that were made a minute apart, c first."""
    for minute, name in enumerate("cba"):
        group = a_group(name)
        backend.add_group(group, machines_of(group, 2, since=START), now=at(minute))
    return backend


def settle(backend: Backend, *, now: float) -> None:
    """A plan for each group, with nothing in it and no wake."""
    for group in (A, B, C):
        assert commit(backend, group, now=at(now))


def test_longest_due_comes_first_and_no_more_than_asked(fleet: Backend) -> None:
    assert fleet.store.due_groups(at(2), 10) == [C, B, A]
    assert fleet.store.due_groups(at(2), 2) == [C, B]
    assert fleet.store.next_wake() == at(0)


def test_a_group_that_is_marked_again_and_again_keeps_its_place(fleet: Backend) -> None:
    settle(fleet, now=3)
    fleet.store.mark_group(A, now=at(4))
    fleet.store.mark_group(B, now=at(5))
    fleet.store.mark_group(A, now=at(6))
    assert fleet.store.due_groups(at(7), 1) == [A]


def test_a_mark_keeps_the_place_of_a_group_whose_wake_had_come(fleet: Backend) -> None:
    settle(fleet, now=3)
    commit(fleet, A, now=at(3), next_wake=at(4))
    fleet.store.mark_group(B, now=at(5))
    fleet.store.mark_group(A, now=at(6))
    assert fleet.store.due_groups(at(7), 1) == [A]


def test_after_its_plan_a_group_rests_until_its_wake(fleet: Backend) -> None:
    settle(fleet, now=3)
    assert fleet.store.due_groups(at(1000), 10) == []
    assert fleet.store.next_wake() is None
    commit(fleet, A, now=at(4), next_wake=at(10))
    assert fleet.store.next_wake() == at(10)
    assert fleet.store.due_groups(at(9), 10) == []
    assert fleet.store.due_groups(at(10), 10) == [A]


def test_a_mark_makes_due_before_the_wake(fleet: Backend) -> None:
    settle(fleet, now=3)
    commit(fleet, A, now=at(4), next_wake=at(10))
    fleet.store.mark_group(A, now=at(5))
    assert fleet.store.next_wake() == at(5)
    assert fleet.store.due_groups(at(5), 10) == [A]


def test_a_mark_made_while_the_plan_was_made_is_not_lost(fleet: Backend) -> None:
    settle(fleet, now=3)
    snapshot, mark = read(fleet, A, now=at(4))
    fleet.store.mark_group(A, now=at(5))
    assert fleet.store.commit_plan(Plan(group=snapshot.group, next_wake=at(60)), mark, now=at(6))
    assert fleet.store.due_groups(at(6), 10) == [A]
    assert commit(fleet, A, now=at(7))
    assert fleet.store.due_groups(at(8), 10) == []


def test_a_refused_plan_leaves_the_group_due(fleet: Backend) -> None:
    snapshot, mark = read(fleet, A, now=at(3))
    settle(fleet, now=3)
    fleet.store.mark_group(A, now=at(4))
    assert not fleet.store.commit_plan(Plan(group=snapshot.group), mark, now=at(5))
    assert fleet.store.due_groups(at(5), 10) == [A]


def test_a_parked_group_is_left_alone_whatever_marks_it(fleet: Backend) -> None:
    settle(fleet, now=3)
    fleet.store.mark_group(A, now=at(4))
    fleet.store.park_group(A, trace="Traceback …", until=at(6))
    fleet.store.mark_group(A, now=at(5))
    assert fleet.store.due_groups(at(5), 10) == []
    assert fleet.store.next_wake() == at(6)
    assert fleet.store.due_groups(at(6), 10) == [A]


def test_a_group_parked_at_its_wake_is_due_again_when_that_ends(fleet: Backend) -> None:
    settle(fleet, now=3)
    commit(fleet, A, now=at(3), next_wake=at(4))
    fleet.store.park_group(A, trace="Traceback …", until=at(6))
    assert fleet.store.next_wake() == at(6)
    assert fleet.store.due_groups(at(5), 10) == []
    assert fleet.store.due_groups(at(6), 10) == [A]


def test_a_parked_group_does_not_hide_another_that_is_due(fleet: Backend) -> None:
    settle(fleet, now=3)
    fleet.store.mark_group(B, now=at(5))
    fleet.store.park_group(A, trace="Traceback …", until=at(9))
    assert fleet.store.next_wake() == at(5)
    assert fleet.store.due_groups(at(6), 1) == [B]


def test_what_is_not_there_is_never_due_nor_read(fleet: Backend) -> None:
    nobody = GroupId("g_nobody")
    settle(fleet, now=3)
    fleet.store.mark_group(nobody, now=at(4))
    fleet.store.park_group(nobody, trace="Traceback …", until=at(4))
    assert fleet.store.due_groups(at(5), 10) == []
    assert fleet.store.read_group(nobody, now=at(5), clock_stepped=False) is None
    snapshot, mark = read(fleet, A, now=at(5))
    gone = Plan(group=a_group("nobody"))
    assert not fleet.store.commit_plan(gone, mark, now=at(5))
    assert read(fleet, A, now=at(5)) == (snapshot, mark)


def test_the_clocks_mark_never_goes_back(backend: Backend) -> None:
    assert backend.store.raise_clock_mark(at(5)) == at(5)
    assert backend.store.raise_clock_mark(at(4)) == at(5)
    later = at(5) + timedelta(microseconds=1)
    assert backend.store.raise_clock_mark(later) == later
    assert backend.store.raise_clock_mark(START) == later

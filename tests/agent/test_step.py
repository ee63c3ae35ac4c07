"""What the agent does with commands, over every interruption."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upkeep.agent import journal as journal_file
from upkeep.agent.step import (
    DRAIN_TIMEOUT_S_DEFAULT,
    ENTRIES_MAX,
    Effect,
    EntryState,
    Journal,
    Verb,
    accept,
    acknowledge,
    find,
    finish,
    next_effect,
    pending_done,
)
from upkeep.agent.wire import Command, Done, Outcome

EMPTY = Journal()
OK, FAILED, FENCED = Outcome.SUCCEEDED, Outcome.FAILED, Outcome.FENCED


def command(key: str, verb: str = "restart", fence: int = 1, **args: object) -> Command:
    return Command(key, fence, verb, args)


def outcomes(journal: Journal) -> list[tuple[str, int, Outcome]]:
    return [(done.key, done.fence, done.outcome) for done in pending_done(journal)]


def test_a_restart_is_written_down_before_it_is_done_and_done_when_the_boot_id_has_changed() -> (
    None
):
    journal = accept(EMPTY, [command("k")])
    journal, effect = next_effect(journal, boot_id="one")
    assert effect == Effect(Verb.RESTART, "k")
    assert find(journal, "k").state is EntryState.STARTED
    assert next_effect(journal, boot_id="one", in_hand=frozenset({"k"})) == (journal, None)
    journal, effect = next_effect(journal, boot_id="two")
    assert effect is None
    assert outcomes(journal) == [("k", 1, OK)]


def test_a_crash_before_the_restart_asks_for_it_again() -> None:
    journal, _ = next_effect(accept(EMPTY, [command("k")]), boot_id="one")
    again, effect = next_effect(journal, boot_id="one", in_hand=frozenset())
    assert (again, effect) == (journal, Effect(Verb.RESTART, "k"))


def test_a_machine_that_went_down_by_itself_before_the_restart_began_still_restarts() -> None:
    """The command asks for a reboot after it came, not for one at any time."""
    journal = accept(EMPTY, [command("k")])
    _, effect = next_effect(journal, boot_id="another")
    assert effect == Effect(Verb.RESTART, "k")


@pytest.mark.parametrize(
    ("args", "timeout_s"),
    [
        ({"timeout_s": 30}, 30),
        ({"timeout_s": 0}, 1),
        ({"timeout_s": 10**9}, 3600),
        ({"timeout_s": "30"}, DRAIN_TIMEOUT_S_DEFAULT),
        ({"timeout_s": True}, DRAIN_TIMEOUT_S_DEFAULT),
        ({}, DRAIN_TIMEOUT_S_DEFAULT),
    ],
)
def test_the_time_a_drain_gets(args: dict[str, object], timeout_s: int) -> None:
    _, effect = next_effect(accept(EMPTY, [command("k", "drain", **args)]), boot_id="one")
    assert effect == Effect(Verb.DRAIN, "k", timeout_s)


def test_a_drain_that_was_cut_short_is_run_again_even_after_a_reboot() -> None:
    journal, _ = next_effect(accept(EMPTY, [command("k", "drain")]), boot_id="one")
    _, effect = next_effect(journal, boot_id="two")
    assert effect == Effect(Verb.DRAIN, "k", DRAIN_TIMEOUT_S_DEFAULT)


def test_commands_run_one_at_a_time_in_order() -> None:
    journal = accept(EMPTY, [command("a", "drain"), command("b", "restart")])
    journal, effect = next_effect(journal, boot_id="one")
    assert effect is not None
    assert effect.key == "a"
    assert next_effect(journal, boot_id="one", in_hand=frozenset({"a"}))[1] is None
    _, effect = next_effect(finish(journal, "a", OK), boot_id="one")
    assert effect == Effect(Verb.RESTART, "b")


def test_report_needs_no_effect_and_an_unknown_verb_fails_with_advice() -> None:
    journal = accept(EMPTY, [command("a", "report"), command("b", "format_disk")])
    for _ in range(3):
        journal, effect = next_effect(journal, boot_id="one")
        assert effect is None
    assert outcomes(journal) == [("a", 1, OK), ("b", 1, FAILED)]
    assert "update the agent" in pending_done(journal)[1].detail


def test_a_repeated_key_is_answered_again_and_not_done_again() -> None:
    journal = finish(accept(EMPTY, [command("k")]), "k", FAILED, "no")
    journal = acknowledge(journal, pending_done(journal))
    assert outcomes(journal) == []
    journal = accept(journal, [command("k")])
    assert outcomes(journal) == [("k", 1, FAILED)]
    assert next_effect(journal, boot_id="one") == (journal, None)


def test_a_repeated_key_is_answered_under_the_highest_fence_it_came_with() -> None:
    journal = finish(accept(EMPTY, [command("k", fence=3)]), "k", OK)
    assert outcomes(accept(journal, [command("k", fence=7)])) == [("k", 7, OK)]
    assert outcomes(accept(journal, [command("k", fence=2)])) == [("k", 3, OK)]


def test_an_outcome_sent_under_an_older_fence_is_not_confirmed_by_its_reply() -> None:
    journal = finish(accept(EMPTY, [command("k", fence=3)]), "k", OK)
    sent = pending_done(journal)
    journal = accept(journal, [command("k", fence=7)])
    assert outcomes(acknowledge(journal, sent)) == [("k", 7, OK)]


def test_a_lower_fence_does_nothing_and_the_same_key_with_a_good_one_runs() -> None:
    journal = finish(accept(EMPTY, [command("new", fence=5)]), "new", OK)
    journal = accept(journal, [command("old", fence=4)])
    assert outcomes(journal) == [("new", 5, OK), ("old", 4, FENCED)]
    assert next_effect(journal, boot_id="one")[1] is None
    journal = accept(journal, [command("old", fence=6)])
    assert next_effect(journal, boot_id="one")[1] == Effect(Verb.RESTART, "old")


def test_the_fence_counts_for_the_machine_and_survives_the_file() -> None:
    journal = accept(EMPTY, [command("a", fence=9)])
    journal = journal_file.from_json(json.loads(json.dumps(journal_file.to_json(journal))))
    assert outcomes(accept(journal, [command("b", fence=8)])) == [("b", 8, FENCED)]


def test_finish_never_changes_an_outcome() -> None:
    journal = finish(accept(EMPTY, [command("k")]), "k", OK)
    assert finish(journal, "k", FAILED) is journal
    assert finish(journal, "unknown", FAILED) is journal


def test_a_full_journal_drops_what_was_confirmed_and_else_takes_no_more() -> None:
    journal = accept(EMPTY, [command(str(n), "report") for n in range(ENTRIES_MAX)])
    assert accept(journal, [command("one more")]).entries == journal.entries
    for n in range(ENTRIES_MAX):
        journal = finish(journal, str(n), OK)
    assert accept(journal, [command("one more")]).entries == journal.entries
    journal = acknowledge(journal, [Done("7", 1, OK)])
    journal = accept(journal, [command("one more")])
    assert len(journal.entries) == ENTRIES_MAX
    assert find(journal, "7") is None
    assert find(journal, "one more") is not None


def test_a_journal_that_did_not_change_is_the_same_object() -> None:
    """The loop writes the file only then."""
    journal = accept(EMPTY, [command("k")])
    assert accept(journal, [command("k")]) is journal
    assert acknowledge(journal, []) is journal
    started, _ = next_effect(journal, boot_id="one")
    assert next_effect(started, boot_id="one")[0] is started


COMMANDS = st.builds(
    Command,
    key=st.sampled_from(["a", "b", "c"]),
    fence=st.integers(0, 4),
    verb=st.sampled_from(["restart", "drain", "report", "other"]),
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("command"), COMMANDS),
        st.tuples(st.just("crash"), st.none()),
        st.tuples(st.just("reboot"), st.none()),
        st.tuples(st.just("step"), st.none()),
        st.tuples(st.just("finish"), st.none()),
        st.tuples(st.just("reply"), st.none()),
    ),
    max_size=40,
)


@given(EVENTS)
def test_whatever_happens_no_key_is_done_twice_and_no_stale_fence_acts(events) -> None:
    journal, boot, in_hand = EMPTY, 0, frozenset()
    answered: dict[str, Outcome] = {}
    for name, given_command in events:
        if name == "command":
            journal = accept(journal, [given_command])
        elif name == "crash":
            in_hand = frozenset()
        elif name == "reboot":
            boot, in_hand = boot + 1, frozenset()
        elif name == "step":
            journal, effect = next_effect(journal, boot_id=str(boot), in_hand=in_hand)
            if effect is not None:
                assert answered.get(effect.key) in (None, FENCED)
                assert find(journal, effect.key).state is EntryState.STARTED
                assert not in_hand, "one at a time"
                in_hand = frozenset({effect.key})
        elif name == "finish" and in_hand:
            journal = finish(journal, next(iter(in_hand)), OK)
            in_hand = frozenset()
        elif name == "reply":
            journal = acknowledge(journal, pending_done(journal))
        in_hand = frozenset(k for k in in_hand if find(journal, k).state is EntryState.STARTED)
        for done in pending_done(journal):
            assert answered.get(done.key) in (None, FENCED, done.outcome)
            answered[done.key] = done.outcome
        stored = json.loads(json.dumps(journal_file.to_json(journal)))
        assert journal_file.from_json(stored) == journal

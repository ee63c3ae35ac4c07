"""Lifecycle hooks: who is asked, what an answer does, what silence means.

Source: sheet os-image §2.6 #4, §13.5 [DEC]; docs/adr/0016.
"""

from datetime import timedelta

from tests.core.story import Story, a_group, machines_of, one_version_newer, reasons, share

from upkeep.core.hold import HoldReason
from upkeep.core.hook_event import Answer, HookKind
from upkeep.core.model import Health, RolloutCode, RolloutState, Verb
from upkeep.core.policy import RollingPolicy
from upkeep.core.task import TaskState

HALF_AN_HOUR = timedelta(minutes=30)
APPROVED, REJECTED, WAITING = Answer.APPROVED, Answer.REJECTED, Answer.WAITING


def asks_at_start(*, approves: bool = True) -> Story:
    policy = RollingPolicy(start_hook_wait=HALF_AN_HOUR, start_hook_approves=approves)
    return one_version_newer(machines_of(3), policy=policy)


def asks_before_each_batch(size: int = 4, *, approves: bool = True) -> Story:
    policy = RollingPolicy(
        max_batch_percent=50,
        max_unhealthy_percent=50,
        batch_hook_wait=HALF_AN_HOUR,
        batch_hook_approves=approves,
    )
    return one_version_newer(machines_of(size), policy=policy, budgets=(share(50),))


# The beginning.


def test_nothing_begins_before_the_answer_and_the_hold_says_what_silence_means() -> None:
    story = asks_at_start().run(minutes=29)
    assert story.sent(Verb.REPLACE_OS_DISK) == []
    assert set(reasons(story).values()) == {HoldReason.HOOK}
    assert "without an answer it is approved" in story.holds[0].lifted_by
    assert story.question().kind is HookKind.START
    assert list(story.question().answers.values()) == [WAITING]


def test_silence_approves_where_the_policy_says_so_and_is_asked_once() -> None:
    story = asks_at_start().run(minutes=120)
    assert story.rollout().state is RolloutState.COMPLETED
    assert (len(story.hook_events), story.question().closed) == (1, True)
    first = next(moment for moment, plan in story.plans if plan.actions)
    assert first - story.question().created_at == HALF_AN_HOUR


def test_an_approval_is_acted_on_at_once() -> None:
    story = asks_at_start()
    story.at(5, lambda: story.answer(APPROVED))
    story.run(minutes=6)
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m0"]


def test_a_rejected_beginning_ends_the_rollout_and_it_does_not_begin_again_by_itself() -> None:
    story = asks_at_start()
    story.at(5, lambda: story.answer(REJECTED))
    story.run(minutes=600)
    assert (story.rollout().state, story.rollout().code) == (
        RolloutState.CANCELLED,
        RolloutCode.OPERATOR_CANCELLED,
    )
    assert "rejected" in story.rollout().evidence
    assert set(reasons(story).values()) == {HoldReason.ROLLOUT_CANCELLED}
    assert len(story.rollouts) == 1


def test_silence_rejects_where_the_policy_says_so() -> None:
    story = asks_at_start(approves=False).run(minutes=120)
    assert story.rollout().state is RolloutState.CANCELLED
    assert story.sent(Verb.REPLACE_OS_DISK) == []


# Each batch.


def test_each_batch_is_asked_about_and_holds_no_place_while_it_waits() -> None:
    story = asks_before_each_batch().run(minutes=10)
    assert story.question().answers == {"m0": WAITING, "m1": WAITING}
    assert (reasons(story)["m0"], reasons(story)["m2"]) == (HoldReason.HOOK, HoldReason.BATCH_OPEN)
    assert story.claims == []
    story.run_on(minutes=120)
    assert [sorted(e.answers) for e in story.hook_events.values()] == [["m0", "m1"], ["m2", "m3"]]
    assert story.batches() == [["m0", "m1"], ["m2", "m3"]]
    assert story.rollout().state is RolloutState.COMPLETED


def test_who_is_rejected_is_left_out_and_the_others_go() -> None:
    story = asks_before_each_batch()
    story.at(5, lambda: story.answer(REJECTED, "m0"))
    story.at(6, lambda: story.answer(APPROVED, "m1"))
    story.run(minutes=7)
    assert story.task("m0").state is TaskState.SKIPPED
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m1"]
    assert story.hold("m0") is HoldReason.HOOK


def test_who_was_rejected_is_asked_about_again_later_and_not_at_once() -> None:
    story = asks_before_each_batch(2)
    story.at(5, lambda: story.answer(REJECTED, "m0"))
    story.run(minutes=60)
    assert (story.rollout().state, story.rollout().code) == (
        RolloutState.COMPLETED,
        RolloutCode.REJECTED,
    )
    assert story.hold("m0") is HoldReason.RETRY_LATER
    story.run_on(minutes=120)
    assert story.question(number=2).answers == {"m0": APPROVED}


def test_a_part_of_an_answer_waits_for_the_rest_of_it() -> None:
    story = asks_before_each_batch(approves=False)
    story.at(5, lambda: story.answer(APPROVED, "m1"))
    story.run(minutes=29)
    assert story.sent(Verb.REPLACE_OS_DISK) == []
    story.run_on(minutes=3)
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m1"]
    assert story.task("m0").state is TaskState.SKIPPED


def test_when_all_are_rejected_the_next_are_asked_about() -> None:
    story = asks_before_each_batch()
    story.at(5, lambda: story.answer(REJECTED))
    story.run(minutes=10)
    assert story.question(2).answers == {"m2": WAITING, "m3": WAITING}


def test_an_answer_is_good_until_its_machine_has_a_place() -> None:
    story = asks_before_each_batch()
    story.budgets = (share(25),)
    story.at(5, lambda: story.answer(APPROVED))
    story.run(minutes=20)
    assert story.batches() == [["m0"], ["m1"]]
    assert story.question(2).answers == {"m2": WAITING, "m3": WAITING}


def test_who_was_approved_and_cannot_be_reached_does_not_keep_the_others_waiting() -> None:
    story = asks_before_each_batch()
    story.at(5, lambda: story.answer(APPROVED))
    story.at(5, lambda: [story.see(m, Health.UNKNOWN) for m in ("m0", "m1")] and None)
    story.run(minutes=6)
    assert story.question(2).answers == {"m2": WAITING, "m3": WAITING}


def test_who_is_asked_about_may_be_deleted_before_the_answer() -> None:
    story = asks_before_each_batch()
    story.at(5, lambda: story.remove("m0"))
    story.at(10, lambda: story.answer(APPROVED))
    story.run(minutes=12)
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m1"]


def test_a_cancel_closes_the_question() -> None:
    story = asks_before_each_batch()
    story.at(5, story.cancel)
    story.run(minutes=10)
    assert (story.rollout().state, story.question().closed) == (RolloutState.CANCELLED, True)


def test_a_newer_version_takes_over_from_one_that_waits_for_an_answer() -> None:
    story = asks_before_each_batch()
    story.at(5, lambda: story.publish("1.0.2"))
    story.run(minutes=10)
    assert story.question().closed
    assert story.rollout().code is RolloutCode.SUPERSEDED
    assert story.question(number=2).answers == {"m0": WAITING, "m1": WAITING}


def test_who_starts_a_rollout_is_not_asked() -> None:
    policy = RollingPolicy(start_hook_wait=HALF_AN_HOUR, batch_hook_wait=HALF_AN_HOUR)
    story = one_version_newer(machines_of(2), group=a_group(auto_upgrade=False, policy=policy))
    story.call(Verb.REPLACE_OS_DISK)
    story.run(minutes=30)
    assert story.rollout().state is RolloutState.COMPLETED
    assert story.hook_events == {}


def test_other_work_asks_nobody() -> None:
    story = asks_at_start()
    story.at(5, lambda: story.call(Verb.RESTART, "m1") and None)
    story.run(minutes=20)
    assert story.sent(Verb.RESTART) == ["m1"]
    assert len(story.hook_events) == 1


def test_going_back_from_a_guilty_version_asks_nobody() -> None:
    story = asks_before_each_batch()
    story.ill_on = {(machine.name, "1.0.1") for machine in story.machines.values()}
    story.at(5, lambda: story.answer(APPROVED))
    story.run(minutes=120)
    assert story.rollout().guilty
    assert set(story.images().values()) == {"1.0.0"}
    assert len(story.hook_events) == 1

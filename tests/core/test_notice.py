"""Between the announcement and the start: what may change, and what then becomes of the work."""

from dataclasses import replace
from datetime import timedelta

from tests.core.story import Story, machines_of, one_version_newer, share

from upkeep.core.hold import HoldReason
from upkeep.core.model import Budget, BudgetId, Health, RolloutState, Verb
from upkeep.core.policy import RollingPolicy
from upkeep.core.task import TaskState

MINUTE = timedelta(minutes=1)


def announced(size: int = 5, *, drain: int = 0) -> Story:
    """The usual beginning, with half an hour of notice; m0 is the first to be announced."""
    policy = RollingPolicy(notice=30 * MINUTE, drain_timeout=drain * MINUTE)
    return one_version_newer(machines_of(size), policy=policy)


def test_others_that_fell_ill_during_the_notice_take_its_place() -> None:
    story = announced()
    story.at(10, lambda: story.see("m3", Health.UNHEALTHY))
    story.run(minutes=31)
    assert story.sent(Verb.REPLACE_OS_DISK) == []
    assert story.task("m0").state is TaskState.HELD
    assert [c for c in story.claims if c.machine == "m0"] == []
    story.run_on(minutes=31)
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m3"]  # The repair that makes room again.
    story.run_on(minutes=33)
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m3", "m0"]


def test_the_hold_names_the_budget_and_how_many_are_down() -> None:
    story = announced()
    story.at(10, lambda: story.see("m3", Health.UNKNOWN))
    story.run(minutes=30)
    assert story.hold("m0") is HoldReason.BUDGET_SPENT
    hold = next(h for h in story.holds if h.machine == "m0")
    assert "allows 1 down, and 1 are" in hold.lifted_by


def test_a_budget_made_smaller_during_the_notice_holds_for_announced_work() -> None:
    story = announced()
    none = Budget(id=BudgetId("bu_group"), name="group", max_down=0, size={})
    story.at(10, lambda: setattr(story, "budgets", (none,)))
    story.run(minutes=31)
    assert story.sent(Verb.REPLACE_OS_DISK) == []
    assert story.hold("m0") is HoldReason.BUDGET_SPENT


def test_one_that_has_begun_to_drain_goes_on() -> None:
    story = announced(drain=5)
    story.at(31, lambda: story.see("m3", Health.UNHEALTHY))
    story.run(minutes=36)
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m0"]


def test_forced_work_goes_on() -> None:
    story = announced()
    story.group = replace(story.group, auto_upgrade=False)
    story.call(Verb.REPLACE_OS_DISK, "m0", force=True)
    story.at(10, lambda: story.see("m3", Health.UNHEALTHY))
    story.run(minutes=31)
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m0"]


def one_lost_while_the_other_is_done(**fields: timedelta) -> Story:
    """A batch of m0 and m1: m0 has ended when m1, which still drains, is lost."""
    policy = RollingPolicy(
        max_batch_percent=50, max_unhealthy_percent=50, drain_timeout=40 * MINUTE, **fields
    )
    story = one_version_newer(machines_of(4), policy=policy, budgets=(share(50),))
    story.never_drained = {"m1"}
    story.at(20, lambda: story.see("m1", Health.UNKNOWN))
    return story


def test_a_batch_whose_last_machine_was_let_go_is_judged_before_the_next() -> None:
    story = one_lost_while_the_other_is_done()
    story.ill_on = {("m0", "1.0.1"), ("m2", "1.0.1"), ("m3", "1.0.1")}
    story.run(minutes=60)
    assert story.rollout().state is RolloutState.FAULTED
    assert story.rollout().guilty
    assert story.batches() == [["m0", "m1"]]


def test_a_batch_whose_last_machine_was_let_go_is_followed_by_the_pause() -> None:
    story = one_lost_while_the_other_is_done(pause_between_batches=30 * MINUTE)
    story.run(minutes=21)
    assert story.hold("m2") is HoldReason.PAUSE_BETWEEN_BATCHES
    story.run(minutes=49.9)
    assert story.batches() == [["m0", "m1"]]
    story.run(minutes=52)
    assert story.batches() == [["m0", "m1"], ["m2"]]  # m1, unknown, has the other place.


def test_while_nobody_knows_when_it_may_begin_announced_work_keeps_no_place() -> None:
    story = announced()
    story.at(10, lambda: setattr(story, "group", replace(story.group, paused=True)))
    story.run(minutes=29.9)
    assert [c.machine for c in story.claims] == ["m0"]
    story.run(minutes=31)
    assert story.claims == []
    assert story.hold("m0") is HoldReason.PAUSED
    story.group = replace(story.group, paused=False)
    story.rest()
    assert story.hold("m0") is HoldReason.NOTICE  # Announced anew, with the whole notice.
    story.run_on(minutes=31)
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m0"]


def revoked(story: Story) -> list[str]:
    return [key for _, plan in story.plans for key in plan.revoked]


def test_who_has_not_drained_in_time_must_not_do_it_later() -> None:
    story = one_version_newer(machines_of(5), policy=RollingPolicy(drain_timeout=10 * MINUTE))
    story.never_drained = {"m0"}
    story.run(minutes=9.9)
    assert revoked(story) == []
    story.run(minutes=10)
    assert revoked(story) == ["ro_g_1/m0/drain/0"]
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m0"]


def test_who_was_let_go_while_it_drained_must_not_go_on() -> None:
    story = one_lost_while_the_other_is_done()
    story.run(minutes=21)
    assert revoked(story) == ["ro_g_1/m1/drain/0"]


def test_what_was_done_is_not_revoked() -> None:
    story = one_version_newer(machines_of(5), policy=RollingPolicy(drain_timeout=10 * MINUTE))
    story.run(minutes=60)
    assert story.sent(Verb.DRAIN)
    assert revoked(story) == []

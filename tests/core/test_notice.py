"""Between the announcement and the start: what may change, and what then becomes of the work."""

from dataclasses import replace
from datetime import timedelta

from tests.core.story import Story, machines_of, one_version_newer

from upkeep.core.hold import HoldReason
from upkeep.core.model import Budget, BudgetId, Health, RollingPolicy, Verb
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

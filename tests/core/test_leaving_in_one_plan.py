"""A machine that leaves its group in a plan no longer counts in that very plan.

Found by the simulation: with 50 of 51 machines to be up, two were asked to stop; in the plan that
saw the first one stopped, its place was given to the second while the budget still counted 51.
"""

from tests.core.story import Story, machines_of

from upkeep.core.hold import HoldReason
from upkeep.core.model import Budget, BudgetId, Verb


def test_a_stopped_machine_leaves_no_place_for_a_second_one() -> None:
    rule = Budget(id=BudgetId("bu"), name="bu", min_available=4, size={})
    story = Story(machines_of(5), budgets=(rule,))
    story.call(Verb.STOP, "m0", "m1")
    story.run(minutes=30)
    assert story.sent(Verb.STOP) == ["m0"]
    assert story.hold("m1") is HoldReason.BUDGET_SPENT


def test_a_deleted_machine_leaves_no_place_for_a_second_one() -> None:
    rule = Budget(id=BudgetId("bu"), name="bu", min_available=4, size={})
    story = Story(machines_of(5), budgets=(rule,))
    story.call(Verb.DELETE, "m0", "m1")
    story.run(minutes=30)
    assert story.sent(Verb.DELETE) == ["m0"]

"""A group that waits for a lost domain is planned again, though nothing of its own tells it to.

The machines that come back may all be other groups': a zone is counted over the whole fleet.
"""

from dataclasses import replace
from datetime import timedelta

from tests.core.story import START, a_group, machines_of

from upkeep.core.blame import RESUME_AFTER
from upkeep.core.draft import LOOK_AGAIN
from upkeep.core.plan import plan_group
from upkeep.core.snapshot import Domain, Snapshot

AWAY = Domain(kind="zone", name="1", size=4, away=((START, None),) * 3)
CALM = Snapshot(group=a_group(), machines=tuple(machines_of(2, zones=("1",))))


def test_while_no_end_is_in_sight() -> None:
    assert plan_group(CALM, now=START).next_wake is None
    lost = replace(CALM, domains=(AWAY,))
    assert plan_group(lost, now=START).next_wake == START + LOOK_AGAIN


def test_when_its_end_is_known() -> None:
    back = START + timedelta(minutes=2)
    lost = replace(CALM, domains=(replace(AWAY, away=((START, back),) * 3),))
    assert plan_group(lost, now=back).next_wake == back + RESUME_AFTER
    assert LOOK_AGAIN < RESUME_AFTER

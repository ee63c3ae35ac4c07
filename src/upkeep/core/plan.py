"""One tick of one group: read a snapshot, answer with a plan.  Start reading the core here.

    1. settle   settle.py, rolling.py   what was seen moves tasks, tasks move rollouts
                (verdict.py, blame.py: has a batch failed, and who is to blame)
    2. propose  calls.py, scale.py, systems/*.py   what should be done
    3. admit    admission.py   what may begin now; everything else gets a hold with a reason
                (refusals.py: why not; systems/scheduled_events.py: notice, drain, start)
    4. emit     draft.py       the differences, to be written in one transaction

The same snapshot and the same `now` give a plan that is equal byte for byte.  Nothing here reads
a clock, draws a number, waits or writes; a crash before the plan is committed costs nothing, and
after it the executor finds the actions in the journal.
"""

from datetime import datetime

from upkeep.core import calls, scale
from upkeep.core.admission import admit
from upkeep.core.draft import Draft
from upkeep.core.rolling import settle_rollouts
from upkeep.core.settle import settle_tasks
from upkeep.core.snapshot import Plan, Snapshot
from upkeep.core.systems import machine_model, os_image, repairs


def plan_group(snapshot: Snapshot, *, now: datetime) -> Plan:
    """What to do in one group now, and why everything else is not being done.

    Raises:
        IllegalTransition, AssertionError: our own mistake; the loop halts the group and keeps
            the trace.
    """
    assert now.tzinfo is not None
    draft = Draft(snapshot, now=now)
    settle_tasks(draft)
    settle_rollouts(draft)
    calls.propose(draft)
    scale.propose(draft)
    os_image.propose(draft)
    machine_model.propose(draft)
    repairs.propose(draft)
    admit(draft)
    return draft.emit()

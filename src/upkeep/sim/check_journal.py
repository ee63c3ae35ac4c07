"""One intent for each action, one holder for each lease, one effect for each key.

Compares what happens on the platform with the intents that were written and with the leases that
were given; it keeps its own record of both.
"""

from collections.abc import Sequence
from datetime import datetime

from upkeep.core.model import Task, Verb
from upkeep.core.task import TaskState
from upkeep.engine.fleet_store import LeasedAction
from upkeep.platforms.simulated import Call, Reach, SimulatedMachine
from upkeep.sim.checkers import BlindChecker, Commit, Facts, RuleBroken
from upkeep.sim.memory_rows import ActionState
from upkeep.sim.world import Truth

# What a platform is asked to do for these.
_CALLED = {Verb.REIMAGE: Verb.REPLACE_OS_DISK}
_DISKS = frozenset({Verb.REPLACE_OS_DISK, Verb.SWITCH_BACK})


class JournalChecker(BlindChecker):
    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._leases: dict[str, tuple[int, datetime | None]] = {}
        self._highest: dict[str, int] = {}  # Machine name → fence given last.
        self._begun: dict[str, tuple[int, int]] = {}  # Machine name → (order, fence) begun last.
        self._order: dict[tuple[str, int], int] = {}  # (key, fence) → order of leases.
        self._succeeded: set[str] = set()
        # The OS disk and the kept one, with their models, and the data volume, before a call.
        self._disks: dict[str, tuple[tuple[str, ...], str]] = {}
        self._swapped: set[str] = set()

    def committed(self, commit: Commit) -> None:
        for action in commit.plan.actions:
            known = self.facts.intents.get(action.key)
            if known is not None:
                raise RuleBroken("INTENT", f"{action.key} is intended a second time: {action}")
            self.facts.intents[action.key] = action
        for task, before in commit.moved:
            if before is TaskState.DRAINING:
                self._command_left(task)

    def _command_left(self, task: Task) -> None:
        """An agent that comes back must not drain a machine whose work is over."""
        for attempt in (task.attempt, task.attempt - 1):
            key = f"{task.rollout}/{task.machine}/{Verb.DRAIN}/{attempt}"
            row = self.facts.store.actions.get(key)
            if row is not None and row.state is not ActionState.DONE:
                raise RuleBroken("COMMAND_LEFT", f"{key} waits for the agent: it is {task.state}")

    def leased(self, taken: Sequence[LeasedAction], now: datetime, until: datetime) -> None:
        for leased in taken:
            key, name = leased.action.key, leased.machine_name
            _, held_until = self._leases.get(key, (0, None))
            if held_until is not None and held_until > now:
                raise RuleBroken("LEASE", f"{key} is given away while it is leased")
            if leased.fence <= self._highest.get(name, 0):
                raise RuleBroken("FENCE", f"{key} gets fence {leased.fence}, not the highest")
            self._highest[name] = leased.fence
            self._leases[key] = (leased.fence, until)
            self._order[(key, leased.fence)] = len(self._order)

    def lease_moved(self, key: str, fence: int, until: datetime | None) -> None:
        held, held_until = self._leases.get(key, (0, None))
        if held == fence:
            longer = until if until is None or held_until is None else max(until, held_until)
            self._leases[key] = (fence, longer)

    def began(self, truth: Truth, call: Call) -> None:
        intent = self.facts.intents.get(call.key)
        verb = "" if intent is None else _CALLED.get(intent.verb, intent.verb).value
        if intent is None or verb != call.verb.value or intent.machine != truth.id:
            raise RuleBroken("INTENT", f"{call.verb} of {truth.name} by {call.key}: {intent}")
        if call.key in self._succeeded:
            raise RuleBroken("ONCE", f"{call.key} has succeeded and begins again")
        order = self._order.get((call.key, call.fence))
        if order is None:
            raise RuleBroken("LEASE", f"{call.key} begins without a lease")
        last, fence = self._begun.get(truth.name, (-1, 0))
        if order < last:
            raise RuleBroken("FENCE", f"{call.key} with {call.fence} begins after {fence}")
        self._begun[truth.name] = (order, call.fence)
        machine = truth.platform
        self._disks[truth.name] = (_os_disks(machine), machine.data)

    def ended(self, truth: Truth, call: Call, machine: SimulatedMachine) -> None:
        disks, data = self._disks.get(truth.name, ((), ""))
        verb = Verb(call.verb)
        if verb is not Verb.CREATE and machine.data != data:
            raise RuleBroken("DATA", f"{call.key}: the data volume of {truth.name} is another")
        if call.course.error is None:
            self._succeeded.add(call.key)
        if verb not in _DISKS or call.course.reach is not Reach.DONE:
            return
        if _os_disks(machine) != disks:
            if call.key in self._swapped:
                raise RuleBroken("ONCE", f"{call.key} changed the OS disk twice")
            self._swapped.add(call.key)


def _os_disks(machine: SimulatedMachine) -> tuple[str, ...]:
    return machine.image, machine.model, machine.kept, machine.kept_model

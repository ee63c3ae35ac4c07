"""A model reaches machines as the people want it, and no disk is made with one nobody wanted.

Held against what people gave each group (the drawing's changes), and against the platform's disks.
"""

from upkeep.core.draft import MAKES_A_DISK
from upkeep.core.model import Group, GroupId, Lifecycle, StartedBy, UpgradeMode, Verb
from upkeep.platforms.simulated import Call, Reach, SimulatedMachine
from upkeep.sim.checkers import BlindChecker, Commit, Facts, RuleBroken
from upkeep.sim.drawing import CURE_MODEL, FIRST_MODEL
from upkeep.sim.world import Truth


class ModelChecker(BlindChecker):
    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._guilty: set[tuple[GroupId, str]] = set()
        self._theirs = {
            g.group.id: {FIRST_MODEL, CURE_MODEL, *(change.model for change in g.models)}
            for g in facts.drawing.groups
        }

    def committed(self, commit: Commit) -> None:
        group = self.facts.store.groups[commit.plan.group.id].group
        for rollout in commit.plan.rollouts:
            if not rollout.is_of_model:
                continue
            key = (rollout.group, rollout.target)
            is_new = rollout.started_at == commit.now and rollout.batch == 0
            if is_new and rollout.target != group.model:
                raise RuleBroken("MODEL", f"{rollout.id} brings {rollout.target}: {group.model}")
            by_itself = rollout.started_by is StartedBy.PLATFORM
            if is_new and by_itself and self.facts.modes[group.id] is UpgradeMode.MANUAL:
                raise RuleBroken("MODE", f"{rollout.id} begins by itself; the mode is manual")
            if rollout.guilty and rollout.ended_at is not None:
                self._guilty.add(key)
        self._new_disks(commit, group)

    def _new_disks(self, commit: Commit, group: Group) -> None:
        """By the way a guilty model is given to nobody, and outside of mode manual a new one to
        no machine that has another."""
        rows = self.facts.store.groups[group.id].machines
        for action in commit.plan.actions:
            rollout = self.facts.rollouts[action.rollout]
            if action.verb not in MAKES_A_DISK or rollout.is_of_model:
                continue
            if action.model == group.baked_model:
                continue
            if (group.id, action.model) in self._guilty:
                raise RuleBroken("MODEL", f"{action.key} brings {action.model}, which is guilty")
            machine = rows[action.machine]
            is_manual = self.facts.modes[group.id] is UpgradeMode.MANUAL
            if not is_manual and action.model != machine.model and action.verb is not Verb.CREATE:
                raise RuleBroken("MODEL", f"{action.key} brings {action.model} by the way")

    def ended(self, truth: Truth, call: Call, machine: SimulatedMachine) -> None:
        if call.course.reach is not Reach.DONE or call.verb.value == Verb.DELETE.value:
            return
        if machine.model not in self._theirs[truth.group]:
            raise RuleBroken("MODEL", f"{truth.name} has {machine.model!r}, which nobody gave it")

    def looked(self) -> None:
        """What the rows say of a machine at rest is what its disks are."""
        for row in self.facts.store.groups.values():
            for machine in row.machines.values():
                truth = self.facts.truth(machine.id)
                if truth is None or machine.lifecycle is not Lifecycle.PRESENT:
                    continue
                if truth.platform.call is not None or machine.boots != truth.platform.boots:
                    continue
                if self.facts.store.pending_of(row.group.id):
                    continue
                if machine.model != truth.platform.model:
                    raise RuleBroken(
                        "MODEL", f"{machine.name}: {machine.model}, not {truth.platform.model}"
                    )

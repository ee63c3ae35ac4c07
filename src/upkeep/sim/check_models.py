"""A model reaches machines as the people want it, and no disk is made with one nobody wanted.

Held against what people gave each group (the drawing's changes), and against the platform's disks.
"""

from collections import defaultdict

from upkeep.core.draft import MAKES_A_DISK
from upkeep.core.model import Group, GroupId, Health, Lifecycle, StartedBy, UpgradeMode, Verb
from upkeep.platforms.simulated import Call, Reach, SimulatedMachine
from upkeep.sim.checkers import BlindChecker, Commit, Facts, RuleBroken
from upkeep.sim.drawing import CURE_MODEL, FIRST_MODEL
from upkeep.sim.world import Truth


class ModelChecker(BlindChecker):
    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._guilty: defaultdict[GroupId, set[str]] = defaultdict(set)
        self._theirs = {
            g.group.id: {FIRST_MODEL, CURE_MODEL, *(change.model for change in g.models)}
            | {machine.model for machine in g.machines}
            for g in facts.drawing.groups
        }

    def committed(self, commit: Commit) -> None:
        group = self.facts.store.groups[commit.plan.group.id].group
        for rollout in commit.plan.rollouts:
            if not rollout.is_of_model:
                continue
            is_new = rollout.started_at == commit.now and rollout.batch == 0
            if is_new and rollout.target != group.model:
                raise RuleBroken("MODEL", f"{rollout.id} brings {rollout.target}: {group.model}")
            by_itself = rollout.started_by is StartedBy.PLATFORM
            if is_new and by_itself and self.facts.modes[group.id] is UpgradeMode.MANUAL:
                raise RuleBroken("MODE", f"{rollout.id} begins by itself; the mode is manual")
            if rollout.guilty:
                self._guilty[rollout.group].add(rollout.target)
        self._new_disks(commit, group)

    def _new_disks(self, commit: Commit, group: Group) -> None:
        """By the way a guilty model is given to nobody while there is another one; outside of mode
        manual a machine keeps the one that it has, and one that is made has what baked."""
        row = self.facts.store.groups[group.id]
        there = [m for m in row.machines.values() if m.lifecycle is Lifecycle.PRESENT]
        for action in commit.plan.actions:
            rollout = self.facts.rollouts[action.rollout]
            if action.verb not in MAKES_A_DISK or rollout.is_of_model:
                continue
            task = self.facts.at_work.get(action.machine)
            old = row.machines.get(task.machine) if task is not None else None
            of = old or row.machines[action.machine]
            good = {m.model for m in there if m.health is Health.HEALTHY}
            good = {m for m in good | {of.model, group.baked_model} if m} - self._guilty[group.id]
            if action.model in self._guilty[group.id]:
                if good:
                    raise RuleBroken("MODEL", f"{action.key} brings a guilty model: {action.model}")
                continue
            if self.facts.modes[group.id] is UpgradeMode.MANUAL:
                continue
            kept = of.model or group.baked_model
            is_kept = any(m.model in ("", group.baked_model) for m in there)
            if action.model != kept and kept not in self._guilty[group.id] and is_kept:
                raise RuleBroken("MODEL", f"{action.key} brings {action.model}, not {kept}")

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

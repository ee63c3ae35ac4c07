"""Surge: make new machines first, remove as many old ones after, so that capacity never drops.

A rollout with `max_surge` takes its batches in the same order and through the same gates, but a
task's work is done on a *stand-in*, a new machine beside the old one:

1. it is made on the target version, in the old machine's zone and domains;
2. it must become healthy and bake like any upgraded machine;
3. then it joins the group in the old one's place, and the old one is removed (scale.py); the next
   batch waits for that.

If the stand-in fails it is removed and the old machine stays: nobody was down, so no claim is
taken.  A version found guilty later leaves the stand-ins by a new OS disk of the version before.

Before each batch the quota is looked at: if the group may not have so many machines at once, that
batch is done in place.  Source: sheet os-image §2.5, §10 (surge: quota check).
"""

from dataclasses import replace

from upkeep.core.draft import Draft
from upkeep.core.model import (
    GroupKind,
    Health,
    Lifecycle,
    Machine,
    MachineId,
    Rollout,
    Task,
    Verb,
)
from upkeep.core.new_disk import model_for
from upkeep.core.task import Signal


def may_surge(draft: Draft, rollout: Rollout, count: int) -> bool:
    """Whether a batch of so many machines can be done by surge now."""
    group = draft.group
    if not rollout.policy.max_surge or rollout.verb is not Verb.REPLACE_OS_DISK:
        return False
    if group.kind is not GroupKind.SCALE_SET:
        return False  # Only a scale set's machines are upkeep's own to make and remove.
    there = sum(1 for m in draft.machines.values() if m.lifecycle is not Lifecycle.DELETED)
    return group.quota == 0 or there + count <= group.quota


def begin_stand_in(draft: Draft, rollout: Rollout, task: Task) -> Task:
    """Name the new machine and send its creation."""
    old = draft.machines[task.machine]
    group = draft.group
    stand_in = draft.put_machine(
        Machine(
            id=MachineId(f"m_{group.id}_{group.next_ordinal}"),
            name=f"{group.name}-{group.next_ordinal}",
            zone=old.zone,
            update_domain=old.update_domain,
            fault_domain=old.fault_domain,
            lifecycle=Lifecycle.CREATING,
            health=Health.INITIALIZING,
            health_since=draft.now,
        )
    )
    draft.group = replace(group, next_ordinal=group.next_ordinal + 1)
    task = draft.move(
        task,
        Signal.START,
        attempt=task.attempt + 1,
        boots_before=0,
        previous=old.image,
        clock_from=draft.now,
        stand_in=stand_in.id,
        model_before=old.model,
    )
    draft.act(task, Verb.CREATE, version=rollout.target, model=model_for(draft, old))
    draft.tell(f"{stand_in.name} is made to stand in for {old.name}")
    return draft.tasks[task.rollout][task.machine]


def withdraw_stand_in(draft: Draft, task: Task, detail: str) -> Task:
    """Nobody wants the stand-in any more, whatever it has shown: as if it had not been begun."""
    _remove(draft, task)
    return draft.move(task, Signal.CANCEL, detail=detail)


def _remove(draft: Draft, task: Task) -> None:
    stand_in = draft.machines[task.stand_in]
    draft.put_machine(stand_in, lifecycle=Lifecycle.DELETING)
    draft.tell(f"{stand_in.name} is removed again; the machine it stood in for stays")


def give_up_stand_in(draft: Draft, task: Task) -> Task:
    """The stand-in failed: it goes, and the old machine was never touched."""
    _remove(draft, task)
    task = draft.move(task, Signal.ROLL_BACK)
    # A new machine has no illness of its own, and that of the old one is no excuse for it.
    return draft.move(task, Signal.BACK, healed=True)


def take_over(draft: Draft, task: Task) -> None:
    """The stand-in has baked: it joins the group, and the machine that it stood in for leaves.

    Both at once, so that no budget ever counts the two: places that were given because there were
    more machines for a while would be too many when the old ones go.
    """
    draft.put_machine(draft.machines[task.stand_in], lifecycle=Lifecycle.PRESENT)
    old = draft.machines.get(task.machine)
    if old is not None and old.lifecycle is Lifecycle.PRESENT:
        draft.put_machine(old, lifecycle=Lifecycle.DELETING)


def is_old_leaving(draft: Draft, rollout: Rollout) -> bool:
    """True while machines of the last batch are still being removed."""
    return rollout.policy.max_surge and any(
        draft.machines[task.machine].lifecycle is Lifecycle.DELETING
        for task in draft.tasks_of(rollout)
        if task.stand_in and task.machine in draft.machines
    )

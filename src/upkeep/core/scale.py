"""A scale set has as many running machines as its capacity says.

The missing are made, the surplus is removed, and what is off without anybody's wish is started.

Making takes nobody down and needs no claim.  Removing takes claims like any other disruption.
New machines go to the zone with the fewest, then the update domain and fault domain with the
fewest, and run the last version that baked (systems/os_image.py).
"""

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

from upkeep.core.draft import Draft
from upkeep.core.model import (
    GroupKind,
    Health,
    Lifecycle,
    Machine,
    MachineId,
    RolloutCode,
    System,
    Task,
    Verb,
)
from upkeep.core.refusals import SOON, is_spared
from upkeep.core.rolling import drop
from upkeep.core.systems.os_image import version_for_new_machine
from upkeep.core.task import TERMINAL, TaskState

# After machines that could not be made or removed: how long until the next try, doubled each
# time up to the last.
RETRY_FIRST = timedelta(seconds=30)
RETRY_MAX = timedelta(hours=1)


def propose(draft: Draft) -> None:
    group = draft.group
    if group.kind is not GroupKind.SCALE_SET:
        return
    # Nobody serves on them any more, so they never wait behind other work of scaling.
    if (leaving := _leaving(draft)) and _may_try(draft, Verb.DELETE):
        _begin(draft, Verb.DELETE, leaving, target="")
    not_counted = _called_away(draft) | _standing_in(draft)
    live = [
        m for m in draft.machines.values() if m.lifecycle not in _GONE and m.id not in not_counted
    ]
    # The kinds of work do not wait for one another: a removal may be waiting for the very place
    # that a machine takes which only has to be started.
    if (off := _switched_off(draft, live)) and _may_try(draft, Verb.START):
        _begin(draft, Verb.START, off, target="")
    surplus = max(0, len(live) - group.capacity)
    chosen = _keep_who_is_wanted_again(draft, surplus)
    if surplus > len(chosen) and _may_try(draft, Verb.DELETE):
        others = [m for m in live if m.id not in chosen]
        _begin(draft, Verb.DELETE, _surplus(others, surplus - len(chosen)), target="")
    elif len(live) < group.capacity and not _is_making(draft) and _may_try(draft, Verb.CREATE):
        version = version_for_new_machine(draft)
        if version is None:
            return  # Nothing to make machines from; the group's page says so.
        made = _make(draft, live, group.capacity - len(live))
        _begin(draft, Verb.CREATE, made, target=version)


def _leaving(draft: Draft) -> list[Machine]:
    """Machines that left the group and are still there, in no open rollout of scaling."""
    under_way = {task.machine for task in _open_tasks(draft, System.SCALE)}
    return sorted(
        (
            m
            for m in draft.machines.values()
            if m.lifecycle is Lifecycle.DELETING and m.id not in under_way
        ),
        key=lambda m: m.id,
    )


def _open_tasks(draft: Draft, system: System, verb: Verb | None = None) -> list[Task]:
    return [
        task
        for rollout in draft.open_rollouts(system)
        if verb is None or rollout.verb is verb
        for task in draft.tasks_of(rollout)
        if task.state not in TERMINAL
    ]


def _keep_who_is_wanted_again(draft: Draft, surplus: int) -> set[MachineId]:
    """Removals that have not begun (they wait for a budget, or their notice runs) are dropped when
    the capacity was raised, or when somebody has protected the machine since: another goes in its
    place.  Answers who is still on the way out."""
    going = [
        task
        for task in _open_tasks(draft, System.SCALE, Verb.DELETE)
        if draft.machines[task.machine].lifecycle is Lifecycle.PRESENT
    ]
    begun = [task for task in going if task.state not in _NOT_BEGUN]
    waiting = [task for task in going if task.state in _NOT_BEGUN]
    spared = [task for task in waiting if is_spared(draft.machines[task.machine])]
    for task in spared:
        drop(draft, task, "it is protected now")
    # Who has been announced, or is drained already, goes before the others.
    waiting = [task for task in waiting if task not in spared]
    waiting.sort(key=lambda task: task.state is TaskState.HELD)
    places = max(0, surplus - len(begun))
    for task in waiting[places:]:
        drop(draft, task, "the capacity has room for it again")
    if spared or waiting[places:]:
        draft.wake_at(draft.now + SOON)
    return {task.machine for task in (*begun, *waiting[:places])}


_NOT_BEGUN = frozenset({TaskState.HELD, TaskState.ANNOUNCED, TaskState.DRAINING})


def _is_making(draft: Draft) -> bool:
    """Machines are being made; those that are there and bake are made."""
    making = _open_tasks(draft, System.SCALE, Verb.CREATE)
    return any(task.state is not TaskState.BAKING for task in making)


def _switched_off(draft: Draft, live: list[Machine]) -> list[Machine]:
    """Machines that should run and are off: their host lost power, or they ended by themselves."""
    asked = {task.machine for task in _open_tasks(draft, System.SCALE, Verb.START)}
    off = [
        m
        for m in live
        if m.powered_off
        and m.lifecycle is Lifecycle.PRESENT
        and m.id not in draft.in_hand
        and m.id not in asked
    ]
    return sorted(off, key=lambda m: m.id)


def _called_away(draft: Draft) -> set[MachineId]:
    """Machines that a person is deleting; the capacity does not count them any more."""
    return {task.machine for task in _open_tasks(draft, System.OPERATOR, Verb.DELETE)}


def _standing_in(draft: Draft) -> set[MachineId]:
    """New machines of a surge that have not replaced theirs yet: both are there for a while.

    One that has joined the group may still be on its way back from a guilty version.
    """
    of_surge = {task.stand_in for task in _open_tasks(draft, System.OS_IMAGE) if task.stand_in}
    return {
        m.id
        for m in draft.machines.values()
        if m.id in of_surge and m.lifecycle is Lifecycle.CREATING
    }


def _may_try(draft: Draft, verb: Verb) -> bool:
    again = _retry_at(draft, verb)
    if again is None or draft.now >= again:
        return True
    draft.wake_at(again)
    return False


_GONE = frozenset({Lifecycle.DELETING, Lifecycle.DELETED})


def _surplus(live: list[Machine], count: int) -> list[Machine]:
    """Whom to remove: ill machines first, then the newest; protected ones never."""
    removable = [m for m in live if not is_spared(m)]
    removable.sort(key=lambda m: (m.health is Health.HEALTHY, _newest_first(m.id)))
    return sorted(removable[:count], key=lambda m: m.id)


def _newest_first(machine: MachineId) -> int:
    ordinal = machine.rpartition("_")[2]
    return -int(ordinal) if ordinal.isdigit() else 0


def _retry_at(draft: Draft, verb: Verb) -> datetime | None:
    """When machines may be made or removed again after failures; None if the last went well."""
    failures = 0
    ended: datetime | None = None
    for rollout in draft.ended_rollouts():  # Newest first.
        if rollout.system is not System.SCALE or rollout.verb is not verb:
            continue
        if rollout.code is RolloutCode.NONE:
            break
        ended = ended or rollout.ended_at
        failures += 1
    if ended is None:
        return None
    doubled: timedelta = RETRY_FIRST * (1 << min(failures - 1, 10))
    return ended + min(doubled, RETRY_MAX)


def _make(draft: Draft, live: list[Machine], count: int) -> list[Machine]:
    """New machine rows, spread over zones and domains; ids follow from the group's counter."""
    group = draft.group
    zones = group.zones or ("",)
    by_zone = Counter(m.zone for m in live)
    by_domain = Counter((m.zone, m.update_domain) for m in live)
    by_fault = Counter((m.zone, m.fault_domain) for m in live)
    made = []
    for ordinal in range(group.next_ordinal, group.next_ordinal + count):
        zone = min(zones, key=lambda z: (by_zone[z], z))
        update_domain = min(range(group.update_domains), key=lambda d: (by_domain[(zone, d)], d))
        fault_domain = min(range(group.fault_domains), key=lambda d: (by_fault[(zone, d)], d))
        by_zone[zone] += 1
        by_domain[(zone, update_domain)] += 1
        by_fault[(zone, fault_domain)] += 1
        made.append(
            draft.put_machine(
                Machine(
                    id=MachineId(f"m_{group.id}_{ordinal}"),
                    name=f"{group.name}-{ordinal}",
                    zone=zone,
                    update_domain=update_domain,
                    fault_domain=fault_domain,
                    lifecycle=Lifecycle.CREATING,
                    health=Health.INITIALIZING,
                    health_since=draft.now,
                )
            )
        )
    draft.group = replace(group, next_ordinal=group.next_ordinal + count)
    return made


def _begin(draft: Draft, verb: Verb, machines: list[Machine], *, target: str) -> None:
    if not machines:
        return
    rollout = draft.begin_rollout(
        System.SCALE,
        verb,
        machines,
        target=target,
        policy=replace(draft.group.policy, max_unhealthy_upgraded_percent=100),
        size=len(machines),
    )
    draft.tell(f"{verb} {len(machines)} machines ({rollout.id})")

"""Operators' own calls: restart, reimage, stop, start, delete machines; a rollout by hand.

They go through the same gate as everything else: one work per machine, claims, clocks, blackouts.
A person may force a call over budgets and blackouts; that is recorded on the claim.
"""

from dataclasses import replace

from upkeep.core.draft import Draft
from upkeep.core.model import Lifecycle, StartedBy, System, Verb
from upkeep.core.snapshot import OperatorCall
from upkeep.core.systems import machine_model
from upkeep.core.task import TERMINAL

# Which lifecycle a machine must be in for each verb.
_NEEDS = {
    Verb.RESTART: frozenset({Lifecycle.PRESENT}),
    Verb.REIMAGE: frozenset({Lifecycle.PRESENT}),
    Verb.STOP: frozenset({Lifecycle.PRESENT}),
    Verb.START: frozenset({Lifecycle.STOPPED}),
    Verb.DELETE: frozenset({Lifecycle.PRESENT, Lifecycle.STOPPED}),
}


def propose(draft: Draft) -> None:
    """Turn each call into a rollout, or refuse it with a reason; each is answered once."""
    for call in draft.snapshot.calls:
        if call.verb is Verb.REPLACE_OS_DISK:
            refusal = machine_model.start_by_hand(draft, call)
        else:
            refusal = _begin(draft, call)
        draft.calls_done.append((call.id, refusal))


def _begin(draft: Draft, call: OperatorCall) -> str:
    needs = _NEEDS.get(call.verb)
    if needs is None:
        return f"{call.verb} cannot be asked for by hand"
    asked_already = {
        task.machine
        for rollout in draft.open_rollouts(System.OPERATOR)
        if rollout.verb is call.verb
        for task in draft.tasks_of(rollout)
        if task.state not in TERMINAL
    }
    machines = []
    for machine_id in sorted(set(call.machines)):
        machine = draft.machines.get(machine_id)
        if machine is None:
            return f"machine {machine_id} is not in this group (any more)"
        if machine.lifecycle not in needs:
            return f"{machine.name} is {machine.lifecycle}: {call.verb} does not apply"
        if call.verb is Verb.REIMAGE and not machine.image:
            return f"nobody knows yet which version {machine.name} runs: wait until it is seen"
        if machine_id in asked_already:
            return f"{machine.name} has been asked to {call.verb} already: wait for that"
        machines.append(machine)
    if not machines:
        return "no machine was named"
    draft.begin_rollout(
        System.OPERATOR,
        call.verb,
        machines,
        policy=draft.group.policy,
        size=len(machines),
        started_by=StartedBy.USER,
        force=call.force,
    )
    if call.verb is Verb.DELETE:
        # A person removes machines for good: the group should not make them again.
        draft.group = replace(draft.group, capacity=max(0, draft.group.capacity - len(machines)))
    draft.tell(f"{call.actor or 'an operator'} asks to {call.verb} {len(machines)} machines")
    return ""

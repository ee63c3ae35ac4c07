"""Asks the planner for something in a person's name, and waits a moment for its word.

A call is a row; the planner turns it into a rollout or refuses it with a reason at its next look
at the group, usually within milliseconds.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime

from upkeep.api.auth import Actor
from upkeep.api.problems import InputError, ProblemKind
from upkeep.api.services import Services
from upkeep.core.model import MachineId, Verb
from upkeep.core.snapshot import OperatorCall
from upkeep.store import calls, rollouts

# Longer than a plan of the largest group takes; a caller's own patience is not less.
ANSWER_MAX_S = 5.0
# The feed says when to look; without it (another replica plans the group) we look so often.
LOOK_EVERY_S = 0.5


async def ask(
    services: Services,
    actor: Actor,
    group_id: str,
    verb: Verb,
    *,
    machines: Sequence[str] = (),
    target: str = "",
    force: bool = False,
) -> str:
    """Make the call; answers the id of the rollout that it has become.

    Raises:
        InputError: REFUSED with the planner's words; UNAVAILABLE if it has not come to it yet:
            the call stays, and will be carried out.
    """
    call = OperatorCall(
        id=services.ids.new("c"),
        verb=verb,
        machines=tuple(MachineId(machine) for machine in machines),
        target=target,
        force=force,
        actor=actor.name,
    )
    until = time.monotonic() + ANSWER_MAX_S
    made_at = await asyncio.to_thread(_write, services, group_id, call)
    services.store.announce(group_id)
    while time.monotonic() < until:
        rollout = await asyncio.to_thread(_rollout_of, services, group_id, call, made_at)
        if rollout is not None:
            return rollout
        await services.notify.wait(group_id, timeout_s=LOOK_EVERY_S)
    raise InputError(
        ProblemKind.UNAVAILABLE,
        "the request is written down and will be carried out, but the planner has not come to it"
        " within 5 seconds: look at the group's rollouts and its story",
    )


def _write(services: Services, group_id: str, call: OperatorCall) -> datetime:
    """The call's row; answers when it was made."""
    now = services.clock.now()
    with services.database.write() as connection:
        calls.create(connection, group_id, call, now=now)
    return now


def _rollout_of(
    services: Services, group_id: str, call: OperatorCall, made_at: datetime
) -> str | None:
    """The rollout that the planner has made of it, or None while it has not.

    Raises:
        InputError: REFUSED with the planner's words.
    """
    with services.database.read() as connection:
        row = calls.find(connection, call.id)
        assert row is not None
        if row.state == calls.REFUSED:
            raise InputError(ProblemKind.REFUSED, row.refusal)
        if row.state == calls.OPEN:
            return None
        rollout = rollouts.started_by_call(
            connection,
            group_id,
            call.verb,
            since=made_at,
            machine=call.machines[0] if call.machines else "",
        )
        return rollout.id if rollout is not None else None

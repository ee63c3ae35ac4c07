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
from upkeep.core.model import Verb
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
    call_id = services.ids.new("c")
    until = time.monotonic() + ANSWER_MAX_S

    def write() -> datetime:
        now = services.clock.now()
        with services.database.write() as connection:
            calls.create(
                connection,
                call_id=call_id,
                group_id=group_id,
                verb=verb,
                machines=machines,
                target=target,
                force=force,
                actor=actor.name,
                now=now,
            )
        return now

    made_at = await asyncio.to_thread(write)
    services.store.announce(group_id)

    def look() -> str | None:
        with services.database.read() as connection:
            call = calls.find(connection, call_id)
            assert call is not None
            if call.state == calls.REFUSED:
                raise InputError(ProblemKind.REFUSED, call.refusal)
            if call.state == calls.OPEN:
                return None
            machine = machines[0] if machines else ""
            row = rollouts.started_by_call(
                connection, group_id, verb, since=made_at, machine=machine
            )
            return row.id if row is not None else None

    while time.monotonic() < until:
        rollout = await asyncio.to_thread(look)
        if rollout is not None:
            return rollout
        await services.notify.wait(group_id, timeout_s=LOOK_EVERY_S)
    raise InputError(
        ProblemKind.UNAVAILABLE,
        "the request is written down and will be carried out, but the planner has not come to it"
        " within 5 seconds: look at the group's rollouts and its story",
    )

"""Restart, reimage, stop, start and delete instances: a person's calls, through the gate like any
other.

A machine to which the call does not apply (it is off already) is left out, as Azure does; with
nobody left it is done.  Source: sheet os-image §9.1.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row

from upkeep.api.arm.documents import checked, field
from upkeep.api.arm.instances import instance_ids, named_instances
from upkeep.api.arm.operations import accepted
from upkeep.api.arm.route import ArmReply, ArmRequest, Handler, look
from upkeep.api.arm.scopes import find_set
from upkeep.api.calls import ask
from upkeep.api.problems import bad_request, invalid
from upkeep.core.model import Lifecycle, Verb

# In which state a machine must be for the verb to change anything.
_APPLIES: Mapping[Verb, frozenset[str]] = {
    Verb.RESTART: frozenset({Lifecycle.PRESENT}),
    Verb.REIMAGE: frozenset({Lifecycle.PRESENT}),
    Verb.STOP: frozenset({Lifecycle.PRESENT}),
    Verb.START: frozenset({Lifecycle.STOPPED}),
    Verb.DELETE: frozenset({Lifecycle.PRESENT, Lifecycle.STOPPED}),
}


def of_set(verb: Verb, *, must_name: bool = False) -> Handler:
    """The instances that the body's `instanceIds` names; without it, or with `*`, all.

    Args:
        must_name: absent does not mean all.
    """

    async def handle(request: ArmRequest) -> ArmReply:
        wanted = instance_ids(request.body)
        if must_name and not wanted:
            raise invalid('instanceIds: name the instances, as in {"instanceIds": ["0", "2"]}')
        return await _call(request, verb, wanted)

    return handle


def of_instance(verb: Verb) -> Handler:
    """The one instance of the path."""

    async def handle(request: ArmRequest) -> ArmReply:
        return await _call(request, verb, [request.params["instance"]])

    return handle


def _check_reimage(body: Any) -> None:
    """A fresh disk is of the version that the machine runs.  Source: sheet §2.7.

    `tempDisk` and `forceUpdateOSDiskForEphemeral` speak of disks that no machine has here.
    """
    given = {} if body is None else checked(body)
    if field(given, "exactVersion") is not None:
        raise bad_request(
            "exactVersion: a reimage keeps the version; POST osRollingUpgrade or manualupgrade"
            " to move to a newer one"
        )
    if field(given, "osProfile") is not None:
        raise bad_request("osProfile: change it on the scale set, then reimage")


async def _call(request: ArmRequest, verb: Verb, wanted: list[str]) -> ArmReply:
    if verb is Verb.REIMAGE:
        _check_reimage(request.body)

    def find(connection: Connection, request: ArmRequest) -> tuple[str, list[str]]:
        row = find_set(connection, request)
        return row.id, _applicable(connection, row, verb, wanted)

    group, chosen = await look(request, find)
    if not chosen:
        return ArmReply()
    return accepted(
        request, await ask(request.services, request.actor, group, verb, machines=chosen)
    )


def _applicable(connection: Connection, row: Row[Any], verb: Verb, wanted: list[str]) -> list[str]:
    """Ids of the machines that are meant and to which the verb applies."""
    found = named_instances(connection, row, wanted)
    return [machine.id for machine in found if machine.lifecycle in _APPLIES[verb]]

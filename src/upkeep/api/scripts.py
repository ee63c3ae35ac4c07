"""First-boot scripts: named, at most 64, each after those it names; stored in that order."""

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Annotated

import msgspec
from msgspec import Meta

from upkeep.agent.seed import CUSTOM_DATA, SCRIPTS_MAX
from upkeep.api.problems import invalid
from upkeep.api.shapes import Body, Name

SCRIPT_BYTES_MAX = 64 * 1024


class Script(Body):
    """`content` is base64 in JSON."""

    name: Name
    content: Annotated[bytes, Meta(max_length=SCRIPT_BYTES_MAX)]
    provision_after: Annotated[tuple[Name, ...], Meta(max_length=SCRIPTS_MAX)] = ()


def to_column(scripts: Sequence[Script]) -> str:
    """The scripts as the seed's `scripts.json`, each after those it names.

    Where the order is free it is the order given.

    Raises:
        InputError: a name twice, a name that is not there, or a circle.
    """
    if len(scripts) > SCRIPTS_MAX:
        raise invalid(f"scripts: at most {SCRIPTS_MAX}; put several into one")
    by_name = {script.name: script for script in scripts}
    if len(by_name) != len(scripts):
        raise invalid("scripts: two have the same name; name each differently")
    if CUSTOM_DATA in by_name:
        raise invalid(f"scripts: {CUSTOM_DATA} is the custom data's own name; take another")
    for script in scripts:
        for before in script.provision_after:
            if before not in by_name:
                raise invalid(
                    f"scripts: {script.name} comes after {before}, which is not among them"
                )
    return msgspec.json.encode([by_name[name] for name in _in_order(scripts)]).decode()


def _in_order(scripts: Sequence[Script]) -> list[str]:
    given = {script.name: number for number, script in enumerate(scripts)}
    sorter = TopologicalSorter({s.name: s.provision_after for s in scripts})
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " after ".join(reversed(error.args[1]))
        raise invalid(f"scripts: {circle}: that is a circle; take one of these out") from None
    order: list[str] = []
    ready = list(sorter.get_ready())
    while ready:
        ready.sort(key=given.__getitem__)
        name = ready.pop(0)
        order.append(name)
        sorter.done(name)
        ready.extend(sorter.get_ready())
    return order

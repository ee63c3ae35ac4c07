"""What a field of a body may be, in words, read from the body's own type.

The decoder says where a value was wrong and not what would be right: "Invalid enum value 'king'"
for `$.role`.  One look at the type along that path gives the rest, for every field of every route
and of the agents' protocol, so that no handler has to say it again.

    what_is_allowed(TokenNew, "role")  ->  "one of reader, operator, admin"
"""

import re
from collections.abc import Iterator
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"[^.\[\]]+|\[[^\]]*\]")


def what_is_allowed(body: Any, path: str) -> str:
    """Empty if the type says nothing that a person could use.

    Args:
        path: as the decoder has it: `policy.order`, `scripts[0].name`, `$.health.state`.
    """
    found = list(_plain(inspect.type_info(body)))
    for step in _STEP.findall(path.removeprefix("$")):
        found = [inner for each in found for inner in _inside(each, step)]
    words = []
    for each in found:
        if isinstance(each, inspect.EnumType):
            words.append("one of " + ", ".join(str(member.value) for member in each.cls))
        elif isinstance(each, inspect.StructType):
            names = ", ".join(field.encode_name for field in each.fields)
            words.append(f"an object with {names}")
        elif isinstance(each, inspect.Metadata):
            words.append(str((each.extra_json_schema or {}).get("description", "")))
    return "; or ".join(word for word in words if word)


def _plain(node: inspect.Type) -> Iterator[inspect.Type]:
    """The members of a union; an annotated type is itself and what it annotates."""
    if isinstance(node, inspect.UnionType):
        for each in node.types:
            yield from _plain(each)
    elif isinstance(node, inspect.Metadata):
        yield node
        yield from _plain(node.type)
    else:
        yield node


def _inside(node: inspect.Type, step: str) -> Iterator[inspect.Type]:
    if isinstance(node, inspect.StructType):
        for field in node.fields:
            if field.encode_name == step:
                yield from _plain(field.type)
    elif isinstance(node, inspect.DictType):
        yield from _plain(node.value_type)
    elif isinstance(node, inspect.ListType | inspect.VarTupleType):
        yield from _plain(node.item_type)

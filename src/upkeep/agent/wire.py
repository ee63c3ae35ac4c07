"""The protocol's bodies as values: what is sent, what a reply may be.  Pure.

`docs/agent-protocol.md` is the contract.  Unknown keys in a reply are passed over, so that an
older agent works with a newer server; a key that is there with a wrong type is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .text_enum import TextEnum

COMMANDS_MAX = 64  # In one reply; the server repeats those that were not answered.
TEXT_LENGTH_MAX = 1_024  # Of a detail that is sent: a page shows one line.
KEY_LENGTH_MAX = 256  # `ro_<26>/m_<26>/verb/attempt` is under 80.
POLL_S_RANGE = (1, 3_600)  # A slip in the server's settings must not silence or flood a fleet.


class ProtocolError(Exception):
    """The reply is not what the protocol says; the same call may be better next time."""


class PollMode(TextEnum):
    LONG = "long"  # One request stays open at the server.
    INTERVAL = "interval"  # Check-ins only.


class Outcome(TextEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    FENCED = "fenced"  # A newer attempt has been here; nothing was done.


@dataclass(frozen=True)
class Command:
    key: str
    fence: int
    verb: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """One answered command, as a check-in carries it."""

    key: str
    fence: int
    outcome: Outcome
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "fence": self.fence,
            "outcome": self.outcome.value,
            "detail": clip(self.detail),
        }


@dataclass(frozen=True)
class Reply:
    """Answer to a check-in or a poll.

    Attributes:
        probe: the group's health source as sent, not validated; None: the machine has none.
        probe_given: False when the reply does not mention it, which changes nothing.
    """

    nonce: str
    mode: PollMode
    seconds: int
    commands: tuple[Command, ...] = ()
    probe: Mapping[str, Any] | None = None
    probe_given: bool = False


def parse_reply(document: object) -> Reply:
    """Reads a reply.

    Raises:
        ProtocolError: naming the first key that is wrong.
    """
    root = _mapping(document, "the reply")
    poll = _mapping(root.get("poll"), "poll")
    mode = PollMode.LONG if poll.get("mode") == PollMode.LONG.value else PollMode.INTERVAL
    probe = root.get("probe")
    commands = root.get("commands", [])
    if not isinstance(commands, list):
        raise ProtocolError("commands is not a list")
    return Reply(
        nonce=_text(root, "nonce"),
        mode=mode,
        seconds=min(max(_whole(poll, "seconds"), POLL_S_RANGE[0]), POLL_S_RANGE[1]),
        commands=tuple(_parse_command(each) for each in commands[:COMMANDS_MAX]),
        probe=None if probe is None else _mapping(probe, "probe"),
        probe_given="probe" in root,
    )


def clip(text: str, length_max: int = TEXT_LENGTH_MAX) -> str:
    """The text as it may be sent: bounded, and without what UTF-8 cannot carry."""
    return text[:length_max].encode("utf-8", "replace").decode("utf-8")


def _parse_command(document: object) -> Command:
    raw = _mapping(document, "a command")
    key = _text(raw, "key")
    if not 0 < len(key) <= KEY_LENGTH_MAX:
        raise ProtocolError(f"a command's key has {len(key)} characters")
    args = raw.get("args")
    return Command(
        key=key,
        fence=_whole(raw, "fence"),
        verb=_text(raw, "verb"),
        args={} if args is None else _mapping(args, "args"),
    )


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"{name} is not an object")
    return value


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str):
        raise ProtocolError(f"{key} is not a text")
    return value


def _whole(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ProtocolError(f"{key} is not a whole number")
    return value

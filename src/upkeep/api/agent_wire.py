"""The bodies of the agents' protocol (docs/agent-protocol.md), decoded and encoded.

Fields that we do not know are passed over: an agent may be newer than its server.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from upkeep.core.model import Health
from upkeep.store.agents import Command

COMMANDS_MAX = 64  # As the agent has it.
DONE_MAX = 256
BODY_BYTES_MAX = 1024 * 1024

Short = Annotated[str, Meta(max_length=256)]
Long = Annotated[str, Meta(max_length=2_048)]


class InsideHealth(StrEnum):
    INITIALIZING = "initializing"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"
    NONE = "none"


# An application of which nothing is known is not well, and its machine is reached all the same:
# UNKNOWN is kept for machines that nobody reaches.
HEALTH = {
    InsideHealth.INITIALIZING: Health.INITIALIZING,
    InsideHealth.HEALTHY: Health.HEALTHY,
    InsideHealth.UNHEALTHY: Health.UNHEALTHY,
    InsideHealth.UNKNOWN: Health.UNHEALTHY,
    InsideHealth.NONE: Health.HEALTHY,
}


class Outcome(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    FENCED = "fenced"


class FirstBootState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class ImageSeen(msgspec.Struct):
    name: Short = ""
    version: Short = ""


class HealthSeen(msgspec.Struct):
    state: InsideHealth
    since: Short = ""
    detail: Long = ""
    phase: Annotated[int, Meta(ge=-(2**31), lt=2**31)] | None = None
    skip: bool = False


class FirstBootSeen(msgspec.Struct):
    state: FirstBootState
    detail: Long = ""


class DoneSeen(msgspec.Struct):
    key: Short
    outcome: Outcome
    fence: int = 0
    detail: Long = ""


class CheckIn(msgspec.Struct):
    nonce: Short
    uuid: Short
    boot_id: Short
    agent: Short
    health: HealthSeen
    first_boot: FirstBootSeen
    image: ImageSeen = msgspec.field(default_factory=ImageSeen)
    os: Short = ""
    busy: Long | None = None
    reboot_required: Long = ""
    done: Annotated[list[DoneSeen], Meta(max_length=DONE_MAX)] = msgspec.field(default_factory=list)

    def digest(self) -> int:
        """Of everything that is kept; texts that change with every probe are not in it."""
        return hash(
            (
                self.boot_id,
                self.agent,
                self.health.state,
                self.health.phase,
                self.health.skip,
                self.first_boot.state,
                self.first_boot.detail,
                self.image.name,
                self.image.version,
                self.os,
                self.busy,
                self.reboot_required,
            )
        )

    def facts(self) -> dict[str, str]:
        """Columns of `agents`; a zero byte, which PostgreSQL does not take, becomes a space."""
        return {
            name: text.replace("\x00", " ")
            for name, text in (
                ("boot_id", self.boot_id),
                ("agent_version", self.agent),
                ("image_name", self.image.name),
                ("image_version", self.image.version),
                ("os", self.os),
                ("first_boot", self.first_boot.state.value),
                ("first_boot_detail", self.first_boot.detail),
                ("reboot_required", self.reboot_required),
                ("busy", self.busy or ""),
            )
        }


class EnrolRequest(msgspec.Struct):
    token: Short
    uuid: Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00]*\Z")]
    machine: Short = ""
    boot_id: Annotated[str, Meta(max_length=256, pattern=r"^[^\x00]*\Z")] = ""
    agent: Annotated[str, Meta(max_length=256, pattern=r"^[^\x00]*\Z")] = ""


class EnrolReply(msgspec.Struct):
    machine_id: str
    secret: str
    nonce: str


decode_check_in = msgspec.json.Decoder(CheckIn).decode


def encode_commands(commands: Sequence[Command]) -> bytes:
    documents: list[dict[str, Any]] = [
        {
            "key": command.key,
            "fence": command.fence,
            "verb": command.verb,
            "args": {"timeout_s": command.timeout_s},
        }
        for command in commands
    ]
    return msgspec.json.encode(documents)


def encode_reply(
    nonce: str, *, is_long: bool, seconds: int, commands: bytes, probe: bytes | None
) -> bytes:
    """Put together from what is encoded already; without a probe nothing changes for the agent."""
    mode = "long" if is_long else "interval"
    head = f'{{"nonce":"{nonce}","poll":{{"mode":"{mode}","seconds":{seconds}}},"commands":'
    tail = b"}" if probe is None else b',"probe":' + probe + b"}"
    return head.encode() + commands + tail

"""Becoming known to a server, once: pin the CA, hand in the token, keep the identity."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from . import VERSION, identity, machine, transport
from .identity import Identity
from .machine import Paths
from .seed import Enrolment

ENROL_PATH = "/agent/v1/enrol"
SHA256_PATTERN = re.compile(r"^[0-9a-fA-F]{64}$")

# What a person can do about each refusal; the server's own words come before it.
WHAT_TO_DO = {
    "token_expired": "Tokens are good for one hour. Make a new one with"
    " `upkeep machine add {machine}` and paste the new line.",
    "token_used": "Another machine has enrolled with this token. If that was not this machine,"
    " find out which; make a new token with `upkeep machine add {machine}`.",
    "token_unknown": "It was mistyped, or made by another server. Paste the whole line again, or"
    " make a new token with `upkeep machine add {machine}`.",
    "machine_unknown": "The server has no machine of the name {machine}. Give the right one with"
    " --machine, or make it first with `upkeep machine add {machine}`.",
}


class EnrolError(Exception):
    """Enrolment was refused; the words say why and what to do.

    Attributes:
        kind: the protocol's word, or `wrong_ca`, `bad_argument`.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def enrol(paths: Paths, wanted: Enrolment) -> Identity:
    """Enrols and writes the identity; safe to repeat with the same token from the same machine.

    Raises:
        EnrolError: a person must do something.
        transport.Unreachable: the server is away; try again.
    """
    if not SHA256_PATTERN.match(wanted.ca_sha256):
        raise EnrolError("bad_argument", "the CA's SHA-256 must be 64 hexadecimal digits")
    uuid = machine.hardware_uuid(paths)
    if not uuid:
        raise EnrolError(
            "bad_argument",
            "this machine has no uuid: neither a seed, nor firmware, nor /etc/machine-id gives"
            " one. Run `systemd-machine-id-setup` and enrol again",
        )
    try:
        ca_pem = transport.fetch_pinned_ca(wanted.server, wanted.ca_sha256)
        link = transport.Link(wanted.server, transport.trust(ca_pem))
        try:
            reply = link.call(ENROL_PATH, _request(paths, wanted, uuid))
        finally:
            link.close()
    except transport.WrongCa as error:
        raise EnrolError("wrong_ca", str(error)) from error
    except transport.Refused as error:
        if not error.is_lasting:
            raise transport.Unreachable(str(error)) from error
        advice = WHAT_TO_DO.get(error.kind, "").format(machine=wanted.machine)
        raise EnrolError(error.kind, f"{error.detail or error.kind}. {advice}".strip()) from error
    except ValueError as error:
        raise EnrolError("bad_argument", str(error)) from error
    known = _identity(wanted, uuid, ca_pem, reply)
    paths.state.mkdir(parents=True, exist_ok=True)
    identity.save(paths.state, known)
    # The conflict is over: this machine has an identity of its own again.
    (paths.state / identity.CONFLICT_FILE_NAME).unlink(missing_ok=True)
    return known


def conflict_advice(state_dir: Path) -> str:
    """What to do about an identity that two machines use."""
    return (
        f"another machine uses this machine's identity (a cloned disk?); it was set aside as"
        f" {state_dir / identity.CONFLICT_FILE_NAME}. Make a token for this machine with"
        " `upkeep machine add NAME` and run `agent.pyz enrol`"
    )


def _request(paths: Paths, wanted: Enrolment, uuid: str) -> dict[str, str]:
    return {
        "token": wanted.token,
        "machine": wanted.machine,
        "uuid": uuid,
        "boot_id": machine.boot_id(paths),
        "agent": VERSION,
    }


def _identity(wanted: Enrolment, uuid: str, ca_pem: str, reply: Any) -> Identity:
    values = [
        reply.get(key) if isinstance(reply, dict) else None
        for key in ("machine_id", "secret", "nonce")
    ]
    if not all(isinstance(value, str) and value for value in values):
        raise transport.Unreachable(f"{wanted.server} answered an enrolment with something else")
    machine_id, secret, nonce = (str(value) for value in values)
    return Identity(
        server=wanted.server.rstrip("/"),
        ca_sha256=wanted.ca_sha256.lower(),
        ca_pem=ca_pem,
        machine=wanted.machine,
        machine_id=machine_id,
        secret=secret,
        uuid=uuid,
        nonce=nonce,
    )

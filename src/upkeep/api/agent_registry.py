"""What this process remembers of each agent, so that a check-in that changes nothing costs no
database: who may speak for the machine, its nonces, and a digest of what it said last.

Memory only: after a restart it is read from the rows, and each agent's first check-in is looked
at in full.  About 400 bytes a machine.

Nonces.  A nonce names the process that issued it and counts: `<process>.<number>`.  Of a machine's
own nonces this process takes two, the one brought last and the one issued last, so any number of
lost replies is harmless; two machines with one identity soon bring a third.  A nonce that another
process issued (before a restart, or another replica) is taken: this process cannot know whether
it is the newest, and finds a clone out two check-ins later.  Nothing of it is secret or stored:
the machine's secret authenticates, the nonce only tells two holders of it apart.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Row


class Entry:
    """One enrolled machine; slots and plain values, since there may be 100,000 of them."""

    __slots__ = (
        "brought",
        "digest",
        "group",
        "issued",
        "locked",
        "machine",
        "secret_hash",
        "told",
        "uuid",
        "waiter",
    )

    def __init__(
        self, machine: str, group: str, secret_hash: bytes, uuid: str, *, locked: bool
    ) -> None:
        self.machine = machine
        self.group = group
        self.secret_hash = secret_hash
        self.uuid = uuid
        # Two machines with this identity were seen: neither may use it until one enrols anew.
        self.locked = locked
        # Numbers of this process's nonces; 0: none.
        self.brought = 0
        self.issued = 0
        # Of what the agent said last and all of which was taken; None: look at it in full.
        self.digest: int | None = None
        # Of the commands sent last: a poll is not answered at once for the same ones.
        self.told = 0
        self.waiter: asyncio.Future[None] | None = None

    def is_secret(self, secret: bytes) -> bool:
        """Compares in constant time."""
        return hmac.compare_digest(hashlib.sha256(secret).digest(), self.secret_hash)


class AgentRegistry:
    """Used on the asyncio loop only."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._groups: dict[str, str] = {}
        self.process = secrets.token_hex(8)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, machine: str) -> Entry | None:
        return self._entries.get(machine)

    def put(self, row: Row[Any] | Any) -> Entry:
        """Add or renew one machine from `store.agents.find_identity`.

        What was remembered of the same secret is kept.
        """
        secret_hash = bytes.fromhex(row.secret_hash)
        known = self._entries.get(row.machine_id)
        if known is not None and known.secret_hash == secret_hash:
            known.locked = bool(row.locked)
            return known
        # One string for all machines of a group.
        group = self._groups.setdefault(row.group_id, row.group_id)
        entry = Entry(row.machine_id, group, secret_hash, row.uuid, locked=bool(row.locked))
        if known is not None and known.waiter is not None and not known.waiter.done():
            known.waiter.set_result(None)  # The old secret's poll ends.
        self._entries[entry.machine] = entry
        return entry

    def load(self, rows: Iterable[Row[Any]]) -> None:
        for row in rows:
            self.put(row)

    def forget(self, machine: str) -> None:
        entry = self._entries.pop(machine, None)
        if entry is not None and entry.waiter is not None and not entry.waiter.done():
            entry.waiter.set_result(None)

    def issue_nonce(self, entry: Entry) -> str:
        entry.issued += 1
        return f"{self.process}.{entry.issued}"

    def take_nonce(self, entry: Entry, nonce: str) -> bool:
        """Whether one machine alone can have brought this nonce; see the module text."""
        process, dot, number = nonce.partition(".")
        if process != self.process or not dot:
            entry.brought = 0
            return True
        if not number.isdigit() or len(number) > 18:
            return False
        brought = int(number)
        if brought == 0 or brought not in (entry.brought, entry.issued):
            return False
        entry.brought = brought
        return True

"""The agents' protocol: enrol, check in, poll (docs/agent-protocol.md).

Check-in and poll are plain ASGI, outside of the framework: this is the hot path.  A check-in that
changes nothing reads and writes no database; it is noted in memory, handed to the health watch
four times a second and to the rows every 30 s, both from other threads, so that neither a lock
nor a disk ever stops the loop.
"""

import asyncio
import logging
import resource
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from upkeep.api import agent_wire as wire
from upkeep.api.agent_registry import AgentRegistry, Entry
from upkeep.api.agent_writer import AgentWriter
from upkeep.api.errors import input_error_from, invalid_body
from upkeep.api.plain_http import answer, answer_error, header, read_body, source_of
from upkeep.api.problems import InputError, ProblemKind
from upkeep.api.services import Services
from upkeep.core.model import Health, MachineId
from upkeep.store import agents

CHECK_IN_PATH = "/agent/v1/check-in"
POLL_PATH = "/agent/v1/poll"

WAIT_S_MAX = 300
HEARD_EVERY_S = 0.25
SEEN_EVERY_S = 30.0
SEEN_PER_TRANSACTION = 1_000
GROUPS_PER_QUERY = 500
REFRESH_EVERY_S = 0.05
# Open files that polls leave to check-ins, pages, the database and platforms.
FILES_RESERVED = 1_000
# An agent that waits is given so much longer before it counts as silent.
SLACK = timedelta(seconds=10)

log = logging.getLogger("upkeep.api")

Scope = Mapping[str, Any]


class AgentEdge:
    """The protocol's server side; lives on one asyncio loop.

    Args:
        threads: where the database is read.
    """

    def __init__(self, services: Services, threads: Executor) -> None:
        self._services = services
        self._clock = services.clock
        self._threads = threads
        self._times = services.agent_times
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._polls_max = max(0, min(self._times.polls_max, files - FILES_RESERVED))
        self._writer = AgentWriter(services.database)
        self.registry = AgentRegistry()
        self.polls_open = 0
        # Machine → what its agent says of its application; not yet with the health watch.
        self._heard: dict[str, tuple[Health, timedelta, str]] = {}
        # Machine → when it was heard of last; not yet in the rows.
        self._seen: dict[str, datetime] = {}
        self._mail: dict[str, set[str]] = {}
        self._probes: dict[str, bytes] = {}
        self._asks_inside: dict[str, bool] = {}
        self._waiting: dict[str, set[Entry]] = {}
        self._dirty: set[str] = set()
        self._is_dirty = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closing = False

    # --- Life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        self._writer.start()
        identities = await self._in_thread(self._read(agents.identities))
        self.registry.load(identities)
        await self._refresh(None)
        self._services.notify.listen(self._changed)
        for loop in (self._hand_over_heard, self._refresh_dirty, self._housekeep):
            self._tasks.append(asyncio.create_task(loop(), name=loop.__name__))

    async def stop(self) -> None:
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(InputError):  # A full disk: each agent is heard of again.
            await self._write_seen()
        await asyncio.to_thread(self._writer.stop)

    def close(self) -> None:
        """Answer every open poll, so that a server can stop; agents come again by themselves."""
        self._is_closing = True
        for entries in self._waiting.values():
            for entry in list(entries):
                _wake(entry)

    # --- Requests -----------------------------------------------------------------------------

    async def check_in(self, scope: Scope, receive: Any, send: Any) -> None:
        try:
            entry, body = await self._receive(scope, receive)
            if not self.registry.take_nonce(entry, body.nonce):
                raise await self._conflict(scope, entry, body, is_other=False)
            nonce = self.registry.issue_nonce(entry)
            is_long = self._may_poll(entry)
            await self._absorb(entry, body, is_long=is_long)
            commands = await self._commands(entry)
            reply = self._reply(entry, nonce, commands, is_long=is_long)
        except Exception as error:
            await answer_error(send, input_error_from(error))
            return
        await answer(send, reply)

    async def poll(self, scope: Scope, receive: Any, send: Any) -> None:
        try:
            wait_s = _wait_s(scope["query_string"])
            entry, body = await self._receive(scope, receive)
            is_long = self._may_poll(entry)
            await self._absorb(entry, body, is_long=is_long)
            commands = await self._commands(entry, only_news=True)
            if commands is None and is_long and not self._is_closing:
                # The body is not needed while we wait: 20,000 of them would be.
                del body
                await self._wait(entry, wait_s)
            if commands is None:
                commands = await self._commands(entry)
            reply = self._reply(entry, "", commands, is_long=is_long)
        except asyncio.CancelledError:
            # The server stops and has waited long enough; the agent comes again.
            await answer_error(send, InputError(ProblemKind.UNAVAILABLE, "the server stops"))
            return
        except Exception as error:
            await answer_error(send, input_error_from(error))
            return
        await answer(send, reply)

    async def enrol(self, request: wire.EnrolRequest, source: str) -> wire.EnrolReply:
        """Trade a one-time token for a machine's secret.

        Raises:
            InputError: token_unknown, token_expired, token_used, machine_unknown.
        """
        now = self._clock.peek()

        def write(connection: Connection) -> tuple[agents.Enrolment, Any]:
            made = agents.enrol(
                connection,
                token=request.token,
                machine_name=request.machine,
                uuid=request.uuid,
                boot_id=request.boot_id,
                agent_version=request.agent,
                address=source,
                now=now,
            )
            found = agents.find_identity(connection, made.machine_id) if made.secret else None
            return made, found

        made, identity = await self._writer.write(write)
        if made.refusal:
            kind = ProblemKind(made.refusal)
            raise InputError(kind, _ENROL_WORDS[kind])
        entry = self.registry.put(identity)
        self._services.announce(made.group_id)
        return wire.EnrolReply(
            machine_id=made.machine_id,
            secret=made.secret,
            nonce=self.registry.issue_nonce(entry),
        )

    # --- Parts of a request -------------------------------------------------------------------

    async def _receive(self, scope: Scope, receive: Any) -> tuple[Entry, wire.CheckIn]:
        """Who it is and what it says.

        Raises:
            InputError: identity_unknown, identity_conflict, invalid, too_large.
        """
        if scope["method"] != "POST":
            raise InputError(ProblemKind.METHOD_NOT_ALLOWED, "POST it")
        entry = await self._identify(header(scope, b"authorization"))
        content = await read_body(scope, receive, bytes_max=wire.BODY_BYTES_MAX)
        try:
            body = wire.decode_check_in(content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise invalid_body(error, wire.CheckIn) from None
        if entry.locked:
            raise _conflict_error("its nonces show that two machines use it")
        if body.uuid != entry.uuid:
            raise await self._conflict(scope, entry, body, is_other=True)
        return entry, body

    async def _identify(self, authorization: bytes) -> Entry:
        scheme, _, text = authorization.partition(b" ")
        machine_bytes, dot, secret = text.strip().partition(b".")
        machine = machine_bytes.decode("latin-1")
        if scheme.lower() == b"bearer" and dot and machine.startswith("m_") and len(text) < 400:
            entry = self.registry.get(machine)
            if entry is not None and entry.is_secret(secret):
                return entry
            # Unknown here, or enrolled anew through another process.
            find = self._read(agents.find_identity, machine)
            row = await self._in_thread(find) if machine.isprintable() else None
            if row is not None:
                entry = self.registry.put(row)
                if entry.is_secret(secret):
                    return entry
        raise InputError(
            ProblemKind.IDENTITY_UNKNOWN,
            "this server knows no such machine or secret; enrol it again with a new token",
        )

    async def _conflict(
        self, scope: Scope, entry: Entry, body: wire.CheckIn, *, is_other: bool
    ) -> InputError:
        """Write down that two machines use one identity.

        The machine with the enrolled uuid goes on; where both have it nobody can tell which is
        the right one, and neither may go on until one enrols anew.
        """
        where = f"{source_of(scope)} at {self._clock.peek():%Y-%m-%d %H:%M:%S} UTC"
        uuid = body.uuid.replace("\x00", " ")
        if is_other:
            detail = f"a machine with uuid {uuid} used this identity from {where}"
        else:
            detail = f"two machines with uuid {uuid} use this identity, one from {where}"
            entry.locked = True

        def write(connection: Connection) -> None:
            agents.record_conflict(connection, entry.machine, detail, locked=not is_other)

        await self._writer.write(write)
        log.warning("identity_conflict machine=%s %s", entry.machine, detail)
        return _conflict_error(detail)

    async def _absorb(self, entry: Entry, body: wire.CheckIn, *, is_long: bool) -> None:
        """Take in what has changed; note that the agent was heard of."""
        inside = wire.HEALTH[body.health.state]
        interval = self._interval(is_long=is_long)
        digest = body.digest()
        if digest == entry.digest and not body.done:
            self._heard[entry.machine] = (inside, interval, body.health.detail)
            self._seen[entry.machine] = self._clock.peek()
            return
        now = self._clock.peek()
        asks = self._asks_inside.get(entry.group, False)
        done = [
            agents.Done(
                key=each.key.replace("\x00", " "),
                succeeded=each.outcome is wire.Outcome.SUCCEEDED,
                detail=each.detail.replace("\x00", " "),
            )
            for each in body.done
            # It comes again, with a fence that the agent takes.
            if each.outcome is not wire.Outcome.FENCED
        ]

        def write(connection: Connection) -> agents.Absorbed:
            return agents.absorb(
                connection,
                entry.machine,
                facts=body.facts(),
                done=done,
                phase=body.health.phase if asks else None,
                skip=body.health.skip if asks else None,
                now=now,
            )

        absorbed: agents.Absorbed = await self._writer.write(write)
        if absorbed.is_renewed:
            # Before this check-in's health is handed over: it is of after the work.
            await self._in_thread(partial(self._begin_watch, entry.machine))
        self._heard[entry.machine] = (inside, interval, body.health.detail)
        self._seen[entry.machine] = now
        entry.digest = digest if absorbed.is_all else None
        if done and entry.group in self._mail:
            # Ahead of the refresh, so that this very reply does not repeat what is answered.
            await self._refresh([entry.group])
        if absorbed.group is not None:
            self._services.store.announce(absorbed.group)

    def _begin_watch(self, machine: str) -> None:
        watched = self._services.store.watched([MachineId(machine)])
        self._services.watch.update(watched, now=self._clock.peek())

    async def _commands(self, entry: Entry, *, only_news: bool = False) -> bytes | None:
        """What waits for the machine, encoded; with `only_news` None if it has been told all."""
        if entry.machine not in self._mail.get(entry.group, ()):
            entry.told = 0
            return None if only_news else b"[]"
        read = self._read(agents.commands, entry.machine, limit=wire.COMMANDS_MAX)
        found = await self._in_thread(read)
        told = hash(tuple((command.key, command.fence) for command in found)) if found else 0
        if only_news and told == entry.told:
            return None
        entry.told = told
        return wire.encode_commands(found)

    async def _wait(self, entry: Entry, wait_s: int) -> None:
        """Until there is something to say, or the time is over; a newer poll ends this one."""
        _wake(entry)
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        entry.waiter = waiter
        waiting = self._waiting.setdefault(entry.group, set())
        waiting.add(entry)
        self.polls_open += 1
        timer = loop.call_later(wait_s, _settle, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self.polls_open -= 1
            if entry.waiter is waiter:
                entry.waiter = None
                waiting.discard(entry)

    def _reply(self, entry: Entry, nonce: str, commands: bytes | None, *, is_long: bool) -> bytes:
        return wire.encode_reply(
            nonce,
            is_long=is_long,
            seconds=self._times.long_s if is_long else self._times.interval_s,
            commands=commands or b"[]",
            probe=self._probes.get(entry.group),
        )

    def _may_poll(self, entry: Entry) -> bool:
        """Whether this agent may keep a request open: it does already, or there is room."""
        return entry.waiter is not None or self.polls_open < self._polls_max

    def _interval(self, *, is_long: bool) -> timedelta:
        seconds = self._times.long_s if is_long else self._times.interval_s
        return timedelta(seconds=seconds) + SLACK

    # --- Behind the requests ------------------------------------------------------------------

    def _changed(self, group: str) -> None:
        self._dirty.add(group)
        self._is_dirty.set()

    async def _refresh_dirty(self) -> None:
        """Look at the mail and the probe of groups that have changed; wake whom it concerns."""
        while True:
            await self._is_dirty.wait()
            self._is_dirty.clear()
            groups, self._dirty = sorted(self._dirty), set()
            for start in range(0, len(groups), GROUPS_PER_QUERY):
                with suppress(Exception):  # Everything is looked at again every 30 s.
                    await self._refresh(groups[start : start + GROUPS_PER_QUERY])
            await asyncio.sleep(REFRESH_EVERY_S)

    async def _refresh(self, groups: list[str] | None) -> None:
        def read(
            connection: Connection,
        ) -> tuple[dict[str, set[str]], dict[str, agents.GroupHealthSource]]:
            return (
                agents.machines_with_mail(connection, groups),
                agents.health_sources(connection, groups),
            )

        mail, sources = await self._in_thread(self._read(read))
        for group, source in sources.items():
            self._use_mail(group, mail.get(group))
            self._use_source(group, source)

    def _use_mail(self, group: str, machines: set[str] | None) -> None:
        if not machines:
            self._mail.pop(group, None)
            return
        self._mail[group] = machines
        for entry in list(self._waiting.get(group, ())):
            if entry.machine in machines:
                _wake(entry)

    def _use_source(self, group: str, source: agents.GroupHealthSource) -> None:
        self._asks_inside[group] = source.source != "outside"
        probe = b"null" if source.probe == "{}" else source.probe.encode()
        before = self._probes.get(group)
        self._probes[group] = probe
        if before is not None and before != probe:
            for entry in list(self._waiting.get(group, ())):
                _wake(entry)

    async def _hand_over_heard(self) -> None:
        while True:
            await asyncio.sleep(HEARD_EVERY_S)
            heard, self._heard = self._heard, {}
            if heard:
                try:
                    await self._in_thread(partial(self._report, heard))
                except SQLAlchemyError as error:
                    # A full disk: said again until it is written, but for what is newer.
                    log.error("agents_health_not_written", exc_info=error)
                    self._heard = {**heard, **self._heard}

    def _report(self, heard: Mapping[str, tuple[Health, timedelta, str]]) -> None:
        now = self._clock.peek()
        for machine, (inside, interval, detail) in heard.items():
            self._services.watch.reported(
                MachineId(machine), inside, now=now, interval=interval, detail=detail
            )

    async def _housekeep(self) -> None:
        while True:
            await asyncio.sleep(SEEN_EVERY_S)
            try:
                await self._write_seen()
                for machine in await self._writer.write(agents.forget_deleted):
                    self.registry.forget(machine)
                await self._refresh(None)
            except Exception as error:
                log.error("agent_housekeeping_failed", exc_info=error)

    async def _write_seen(self) -> None:
        """When agents were last heard of, a bounded number in each transaction."""
        seen, self._seen = self._seen, {}
        machines = sorted(seen)
        for start in range(0, len(machines), SEEN_PER_TRANSACTION):
            part = {m: seen[m] for m in machines[start : start + SEEN_PER_TRANSACTION]}
            try:
                await self._writer.write(partial(agents.write_seen, seen=part))
            except InputError:
                # Nothing of it is written; who was heard of since then is in the newer one.
                self._seen = {**seen, **self._seen}
                raise

    def _read(self, function: Any, *arguments: Any, **named: Any) -> Any:
        def read() -> Any:
            with self._services.database.read() as connection:
                return function(connection, *arguments, **named)

        return read

    async def _in_thread(self, function: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


_ENROL_WORDS = {
    ProblemKind.TOKEN_UNKNOWN: "this server has not made that token",
    ProblemKind.TOKEN_EXPIRED: "enrolment tokens are good for one hour; make a new one",
    ProblemKind.TOKEN_USED: "the token works for one machine, and another has used it",
    ProblemKind.MACHINE_UNKNOWN: "the token is not for a machine of that name, or it is gone",
}


def _conflict_error(detail: str) -> InputError:
    return InputError(ProblemKind.IDENTITY_CONFLICT, f"{detail}; enrol this machine anew")


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _wake(entry: Entry) -> None:
    if entry.waiter is not None:
        _settle(entry.waiter)


def _wait_s(query: bytes) -> int:
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"wait":
            if not value.isdigit() or len(value) > 6:
                raise InputError(ProblemKind.INVALID, "wait: whole seconds")
            return min(int(value), WAIT_S_MAX)
    return 0

"""Watches the health of machines: what the prober and the agents say becomes a row's health.

One object a process.  Its memory is a cache: after a restart, and when the process itself was away
(suspended, starved) so that another may have watched, it begins from the rows, with every agent
counted as heard from just now.  It writes only when a machine's effective health, or what
its application asks of a rollout, changes; everything else stays in memory.

When a machine's `watch_from` moves (an action on it has ended), all that was seen before is
forgotten, and a probe that was on its way is dropped when it comes back.

Who sends probes and when is `prober.py`; which witness decides is `core/health.py`.
"""

import heapq
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from upkeep.agent import health as rules
from upkeep.core.health import HealthSource, combine
from upkeep.core.model import Health, MachineId
from upkeep.engine.fleet_store import FleetStore, Sighting, WatchedMachine
from upkeep.ports import ProbeResult

# An agent that has been silent for three of its intervals is not there.
SILENT_INTERVALS = 3
AGENT_INTERVAL_DEFAULT = timedelta(minutes=5)
# Sweeps come every few seconds.  After so long without one it was this process that was away:
# nobody can have been heard, and what it remembers of anybody is worth nothing.
AWAY_AFTER = timedelta(minutes=2)
# The lock is held for so many machines at once: a check-in waits for it, some milliseconds at most.
MACHINES_AT_ONCE = 1_000
NEVER = datetime.max.replace(tzinfo=UTC)
# A row's health in the words of the core, for each state of a health source.
_HEALTH = {state: Health(state.value) for state in rules.HealthState}

T = TypeVar("T")


@dataclass(slots=True)
class _Watch:
    machine: WatchedMachine
    begun_at: datetime
    settings: rules.ProbeSettings | None
    outside: rules.Health | None
    source: HealthSource
    inside: Health
    silent_at: datetime  # From then on its agent counts as silent, unless it is heard before.
    agent_interval: timedelta
    answers: bool
    written: Health
    next_probe_at: datetime
    look_at: datetime = NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class DueProbe:
    """One probe to send now; hand it back to `probed` with what came of it."""

    machine: MachineId
    address: str
    settings: rules.ProbeSettings
    begun_at: datetime


class HealthWatch:
    """See the module text.  Safe to call from several threads."""

    def __init__(self, store: FleetStore) -> None:
        self._store = store
        self._watches: dict[MachineId, _Watch] = {}
        # When each machine's next probe is due, soonest first; old entries are skipped.
        self._schedule: list[tuple[datetime, MachineId]] = []
        # When each machine's health may change with nobody saying a word; old entries are skipped.
        self._looks: list[tuple[datetime, MachineId]] = []
        self._lock = threading.RLock()
        self._away_from = NEVER

    def load(self, machines: Sequence[WatchedMachine], *, now: datetime) -> None:
        """Watch exactly these; what is known of a machine whose `watch_from` stands is kept."""
        wanted = {machine.machine for machine in machines}
        with self._lock:
            known = list(self._watches)
        gone = [machine for machine in known if machine not in wanted]
        for part in _parts(gone):
            with self._lock:
                for machine in part:
                    self._watches.pop(machine, None)
        self.update(machines, now=now)

    def update(self, machines: Sequence[WatchedMachine], *, now: datetime) -> None:
        """Add or renew single machines, as after an action on them."""
        # By the probe's own identity: the machines of a group share one.
        parsed: dict[int, rules.ProbeSettings | None] = {}
        for part in _parts(machines):
            with self._lock:
                for machine in part:
                    self._renew(machine, parsed, now)

    def _renew(
        self, machine: WatchedMachine, parsed: dict[int, rules.ProbeSettings | None], now: datetime
    ) -> None:
        known = self._watches.get(machine.machine)
        if known is not None and _same_watch(known.machine, machine):
            known.machine = machine
            if machine.health not in (known.written, Health.INITIALIZING):
                # Another process wrote what this one does not believe.
                known.written = machine.health
                self._look_by(known, now)
            return
        key = id(machine.probe)
        if key not in parsed:
            parsed[key] = rules.parse_settings(machine.probe) if machine.probe else None
        watch = _begin(machine, known, parsed[key], now)
        self._watches[machine.machine] = watch
        self._look_by(watch, now)
        if watch.settings is not None and watch.source is not HealthSource.INSIDE:
            self._schedule_probe(watch, now)

    def due(self, *, now: datetime, limit: int) -> list[DueProbe]:
        """At most `limit` probes to send now; each machine's next is an interval later.

        Intervals run from start to start; a probe that was late does not make the next early.
        """
        with self._lock:
            self._stay_awake(now)
            probes: list[DueProbe] = []
            while self._schedule and self._schedule[0][0] <= now and len(probes) < limit:
                at, machine = heapq.heappop(self._schedule)
                watch = self._watches.get(machine)
                if watch is None or watch.settings is None or watch.next_probe_at != at:
                    continue  # Watched no more, or begun anew since.
                interval = timedelta(milliseconds=watch.settings.interval_ms)
                self._schedule_probe(watch, max(at + interval, now + interval / 2))
                if watch.machine.address:
                    probes.append(
                        DueProbe(
                            machine=machine,
                            address=watch.machine.address,
                            settings=watch.settings,
                            begun_at=now,
                        )
                    )
            return probes

    def next_probe_at(self) -> datetime | None:
        with self._lock:
            return self._schedule[0][0] if self._schedule else None

    def _schedule_probe(self, watch: _Watch, at: datetime) -> None:
        watch.next_probe_at = at
        heapq.heappush(self._schedule, (at, watch.machine.machine))

    def probed(self, probe: DueProbe, result: ProbeResult, *, now: datetime) -> bool:
        """One probe came back; True if the machine's health changed."""
        with self._lock:
            self._wake_up(now)
            watch = self._watches.get(probe.machine)
            if watch is None or watch.settings is None or watch.outside is None:
                return False
            if probe.begun_at < watch.begun_at or probe.settings != watch.settings:
                return False  # It looked at the machine before the work on it ended.
            observation = rules.judge(
                watch.settings,
                answered=result.answered,
                status=result.status,
                body=result.body,
                detail=result.detail,
            )
            watch.answers = result.answered
            watch.outside = rules.observe(
                watch.settings, watch.outside, observation, now=now.timestamp()
            )
            return self._write(watch, now=now, detail=observation.detail)

    def heard(self, machine: MachineId, *, now: datetime, interval: timedelta) -> None:
        """The agent checked in and nothing has changed; costs no write."""
        with self._lock:
            self._wake_up(now)
            watch = self._watches.get(machine)
            if watch is not None:
                silent = now > watch.silent_at
                self._agent_heard(watch, now, interval)
                if silent:
                    self._write(watch, now=now, detail="the agent is back")

    def reported(
        self, machine: MachineId, inside: Health, *, now: datetime, interval: timedelta, detail: str
    ) -> bool:
        """The agent's own view of its application changed; True if the machine's health did."""
        with self._lock:
            self._wake_up(now)
            watch = self._watches.get(machine)
            if watch is None:
                return False
            self._agent_heard(watch, now, interval)
            watch.inside = inside
            return self._write(watch, now=now, detail=detail)

    def sweep(self, *, now: datetime) -> int:
        """Grace periods that ended and agents that fell silent; answers how many changed.

        It looks only at machines whose time has come: a fleet that checks in costs nothing here.
        """
        with self._lock:
            self._stay_awake(now)
            left = len(self._looks)  # Who is due again by what is done here has its turn next time.
        changed = 0
        while left > 0:
            with self._lock:
                due = self._take_due(now, min(left, MACHINES_AT_ONCE))
                left = left - len(due) if due else 0
                changed += self._look_at(due, now)
        return changed

    def _take_due(self, now: datetime, limit: int) -> list[tuple[datetime, MachineId]]:
        due: list[tuple[datetime, MachineId]] = []
        while len(due) < limit and self._looks and self._looks[0][0] <= now:
            due.append(heapq.heappop(self._looks))
        return due

    def _look_at(self, due: list[tuple[datetime, MachineId]], now: datetime) -> int:
        changed = 0
        try:
            while due:
                at, machine = due[-1]
                watch = self._watches.get(machine)
                if watch is not None and watch.look_at == at:
                    changed += self._look(watch, now)
                due.pop()
        finally:  # A write that failed: these are looked at next time.
            for look in due:
                heapq.heappush(self._looks, look)
        return changed

    def _look(self, watch: _Watch, now: datetime) -> bool:
        if watch.settings is not None and watch.outside is not None:
            watch.outside = rules.expire(watch.settings, watch.outside, now=now.timestamp())
        changed = self._write(watch, now=now, detail="")
        watch.look_at = NEVER
        if now <= watch.silent_at:
            self._look_by(watch, watch.silent_at)
        if watch.outside is not None and watch.outside.grace_ends_at is not None:
            # Without a grace period it waits for the first probe, and this is long past.
            ends_at = datetime.fromtimestamp(watch.outside.grace_ends_at, UTC)
            if ends_at > now:
                self._look_by(watch, ends_at)
        return changed

    def _look_by(self, watch: _Watch, at: datetime) -> None:
        if at < watch.look_at:
            watch.look_at = at
            heapq.heappush(self._looks, (at, watch.machine.machine))

    def _stay_awake(self, now: datetime) -> None:
        self._wake_up(now)
        self._away_from = now + AWAY_AFTER

    def _wake_up(self, now: datetime) -> None:
        """Notice that this process was away, before anything that it remembers is believed."""
        if now > self._away_from:
            machines = self._store.watched()
            self._watches.clear()
            self.update(machines, now=now)
            self._away_from = now + AWAY_AFTER

    def _agent_heard(self, watch: _Watch, now: datetime, interval: timedelta) -> None:
        watch.agent_interval = interval
        watch.silent_at = now + SILENT_INTERVALS * interval
        self._look_by(watch, watch.silent_at)

    def _write(self, watch: _Watch, *, now: datetime, detail: str) -> bool:
        health = self._effective(watch, now)
        if health is watch.written:
            return False
        metrics = watch.outside.metrics if watch.outside is not None else rules.NO_METRICS
        # What a full disk refuses is tried again at the next sweep.
        self._look_by(watch, now)
        changed = self._store.observe(
            watch.machine.machine,
            Sighting(
                health=health,
                phase=metrics.phase,
                skip=metrics.skip,
                detail=detail,
                watch_from=watch.machine.watch_from,
            ),
            now=now,
        )
        watch.written = health
        return changed

    def _effective(self, watch: _Watch, now: datetime) -> Health:
        outside = Health.HEALTHY if watch.outside is None else _HEALTH[watch.outside.state]
        source = HealthSource.INSIDE if watch.outside is None else watch.source
        return combine(
            source,
            inside=watch.inside,
            outside=outside,
            outside_answers=watch.answers,
            agent_silent=now > watch.silent_at,
        )


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), MACHINES_AT_ONCE):
        yield items[first : first + MACHINES_AT_ONCE]


def _same_watch(known: WatchedMachine, machine: WatchedMachine) -> bool:
    return (
        known.watch_from == machine.watch_from
        and known.probe == machine.probe
        and known.source == machine.source
    )


def _begin(
    machine: WatchedMachine,
    known: _Watch | None,
    settings: rules.ProbeSettings | None,
    now: datetime,
) -> _Watch:
    """A new watch: from the row after a restart, from nothing after work on the machine."""
    outside = None
    if settings is not None:
        outside = rules.start(settings, now=now.timestamp())
        if known is None and machine.health is not Health.INITIALIZING:
            # This process has just started; the row is what the one before had seen.
            seen = rules.HealthState(machine.health.value)
            outside = rules.Health(seen, since=now.timestamp(), grace_ends_at=None)
    interval = known.agent_interval if known else AGENT_INTERVAL_DEFAULT
    return _Watch(
        machine=machine,
        # The clock that ended the work may have been ahead of ours.
        begun_at=min(machine.watch_from, now),
        settings=settings,
        outside=outside,
        source=HealthSource(machine.source),
        inside=machine.health if known is None else Health.INITIALIZING,
        silent_at=now + SILENT_INTERVALS * interval,
        agent_interval=interval,
        answers=machine.health in (Health.HEALTHY, Health.UNHEALTHY),
        written=machine.health,
        next_probe_at=now,
    )

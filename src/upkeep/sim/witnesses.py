"""Feeds the health watch of one process: probes and check-ins, only where something may differ.

A machine about which nothing changes costs no event.  Whoever changed visibly, or is watched
anew after an action, is *restless*: in each round it is probed and its agent checks in, until
what the watch knows has settled.  An agent that is well goes on checking in; that it did is made
up for just before anybody could notice that nothing was sent.

Messages may be lost, late or doubled.  A check-in that a newer one has overtaken is refused, as
the API does by its nonce.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from upkeep.agent.health import ProbeSettings, parse_settings
from upkeep.core.model import GroupId, Health, MachineId
from upkeep.engine.health_watch import (
    AGENT_INTERVAL_DEFAULT,
    AWAY_AFTER,
    SILENT_INTERVALS,
    DueProbe,
    HealthWatch,
)
from upkeep.ports import Power, ProbeResult
from upkeep.sim.kernel import Kernel
from upkeep.sim.memory import MemoryStore
from upkeep.sim.world import Truth, World

# Silent agents and ended grace periods are looked for so often while anybody is restless.
SWEEP_S = 60.0
# The check-ins of an agent that is well are made up for so long at once; `stir` takes back those
# that did not come after all.  A watch that begins anew, as after a step of the clock, waits for
# three of the longest intervals, and this is shorter.
CHECK_INS_MADE_UP = timedelta(minutes=10)
# Between two rounds the process is not away: so often it asks which probes are due.
AWAKE_S = AWAY_AFTER.total_seconds() - 10


class Process(Protocol):
    """Whose ears and eyes these are."""

    def guarded(self, work: Callable[[], object]) -> None:
        """Do it, if the process lives; a kill in the middle of it ends the process."""
        ...

    def engine_now(self) -> datetime: ...


@dataclass(slots=True, kw_only=True)
class Messages:
    """How badly messages travel at present, in percent; the world has one."""

    lost: int = 0
    late: int = 0
    doubled: int = 0
    late_s: float = 60.0


@dataclass(slots=True)
class _Restless:
    until: float
    reported: Health | None = None
    next_report: float = 0.0


class Witnesses:
    """See the module text."""

    def __init__(
        self,
        process: Process,
        world: World,
        kernel: Kernel,
        store: MemoryStore,
        messages: Messages,
        draws: random.Random,
    ) -> None:
        self._process = process
        self._world = world
        self._kernel = kernel
        self._store = store
        self._messages = messages
        self._draws = draws
        self._restless: dict[str, _Restless] = {}
        self._probes: dict[GroupId, ProbeSettings | None] = {
            g.group.id: parse_settings(g.probe) if g.probe else None for g in world.drawing.groups
        }
        self._probe_s = float(world.drawing.probe_s)
        self._agent_s = float(world.drawing.agent_s)
        self._interval = timedelta(seconds=self._agent_s)
        self._round_at: float | None = None
        self._next_sweep = 0.0
        self._next_check_ins = 0.0
        self._sent: dict[str, int] = {}
        self._accepted: dict[str, int] = {}
        self._agent_lives: dict[str, bool] = {}
        self._begun: dict[MachineId, datetime] = {}
        self.since = kernel.now
        self.watch = HealthWatch(store)

    def begin(self) -> None:
        """The process starts to watch: it knows the rows and nothing else."""
        self.reload()
        self._stay_awake()

    def _stay_awake(self) -> None:
        self.watch.due(now=self._process.engine_now(), limit=0)
        self._kernel.after(AWAKE_S, lambda: self._process.guarded(self._stay_awake))

    def reload(self) -> None:
        """Machines that were made or deleted, or worked on by another process."""
        watched = self._store.watched()
        self.watch.load(watched, now=self._process.engine_now())
        begun = {machine.machine: machine.watch_from for machine in watched}
        for truth in self._world.machines.values():
            if truth.id in begun and begun[truth.id] != self._begun.get(truth.id):
                self.stir(truth)
        self._begun = begun

    def worked_on(self, truth: Truth) -> None:
        """This process has just recorded the end of an action on the machine."""
        self.watch.update(self._store.watched([truth.id]), now=self._process.engine_now())
        self.stir(truth)

    def look_under_way(self, truth: Truth, returns_after: float) -> None:
        """A look begins now, with what is true now, and comes back so many seconds later."""
        settings = self._probes[truth.group]
        if settings is None:
            return
        result, begins = self._world.probe(truth), self._kernel.now

        def begin() -> None:
            if self._kernel.now > begins:
                return  # The process was frozen at that moment.
            probe = self._due_probe(truth, settings)
            self._kernel.after(
                returns_after,
                lambda: self._process.guarded(lambda: self._probed(truth, probe, result)),
            )

        self._kernel.after(0.0, lambda: self._process.guarded(begin))

    def stir(self, truth: Truth) -> None:
        """Something about the machine may look different from now on."""
        settings = self._probes[truth.group]
        settled = (SILENT_INTERVALS + 2) * self._agent_s
        if settings is not None:
            probing = (settings.number_of_probes + 2) * self._probe_s
            settled = max(settled, settings.grace_period_s + probing)
        if not self._world.agent_alive(truth):
            # A process that has never heard it waits for three of the longest intervals.
            settled = max(settled, (SILENT_INTERVALS + 1) * AGENT_INTERVAL_DEFAULT.total_seconds())
        restless = self._restless.setdefault(truth.name, _Restless(until=0.0))
        restless.until = max(restless.until, self._kernel.now + settled)
        restless.reported = None
        if self._agent_lives.get(truth.name, True):
            # Until now it has checked in like clockwork.
            age = timedelta(seconds=self._draws.uniform(0, self._agent_s))
            now = self._process.engine_now()
            self.watch.heard(truth.id, now=now - age, interval=self._interval)
        self._agent_lives[truth.name] = self._world.agent_alive(truth)
        self._plan_round()

    def _plan_round(self) -> None:
        if self._round_at is None and self._restless:
            self._round_at = (self._kernel.now // self._probe_s + 1) * self._probe_s
            self._kernel.at(self._round_at, lambda: self._process.guarded(self._round))

    def _round(self) -> None:
        self._round_at = None
        now = self._process.engine_now()
        messages_fail = self._messages.lost or self._messages.late
        for name, restless in list(self._restless.items()):
            truth = self._world.machines.get(name)
            if truth is None:
                del self._restless[name]
                continue
            self._check_in(truth, restless)
            self._probe(truth)
            if messages_fail:
                restless.until = max(restless.until, self._kernel.now + 2 * self._agent_s + 120)
            elif self._kernel.now > restless.until:
                del self._restless[name]
                self._make_up_check_ins(truth, now)
        if self._kernel.now >= self._next_sweep:
            self._next_sweep = self._kernel.now + SWEEP_S
            self._sweep(now)
        self._plan_round()

    def _sweep(self, now: datetime) -> None:
        if self._kernel.now >= self._next_check_ins:
            self._next_check_ins = self._kernel.now + CHECK_INS_MADE_UP.total_seconds()
            for name, truth in self._world.machines.items():
                if name not in self._restless:
                    self._make_up_check_ins(truth, now)
        self.watch.sweep(now=now)

    def _make_up_check_ins(self, truth: Truth, now: datetime) -> None:
        if self._agent_lives.get(truth.name, True):
            self.watch.heard(truth.id, now=now, interval=CHECK_INS_MADE_UP)

    def _check_in(self, truth: Truth, restless: _Restless) -> None:
        if not self._world.agent_alive(truth):
            return
        inside = self._world.inside(truth)
        if inside is restless.reported and self._kernel.now < restless.next_report:
            return
        restless.reported = inside
        restless.next_report = self._kernel.now + self._agent_s
        number = self._sent.get(truth.name, 0) + 1
        self._sent[truth.name] = number
        travel = self._draws.randrange(100)
        messages = self._messages
        if travel < messages.lost + messages.late:
            truth.doubted_at = self._kernel.now
        if travel < messages.lost:
            restless.reported = None
            return
        boots = truth.platform.boots
        if travel < messages.lost + messages.late:
            self._later(lambda: self._hear_late(truth, inside, number, boots))
            return
        self._hear(truth, inside, number)
        if travel < messages.lost + messages.late + messages.doubled:
            self._later(lambda: self._hear_late(truth, inside, number, boots))

    def _hear_late(self, truth: Truth, inside: Health, number: int, boots: int) -> None:
        """A connection dies with the operating system that opened it."""
        if truth.platform.power is Power.RUNNING and truth.platform.boots == boots:
            self._hear(truth, inside, number)

    def _hear(self, truth: Truth, inside: Health, number: int) -> None:
        if number < self._accepted.get(truth.name, 0):
            return
        self._accepted[truth.name] = number
        if inside is not Health.HEALTHY:
            truth.doubted_at = self._kernel.now
        now = self._process.engine_now()
        self.watch.reported(truth.id, inside, now=now, interval=self._interval, detail="reported")
        if truth.name not in self._restless:
            self._make_up_check_ins(truth, now)  # It came late: others have come since it was sent.

    def _probe(self, truth: Truth) -> None:
        settings = self._probes[truth.group]
        if settings is None:
            return
        probe = self._due_probe(truth, settings)
        result = self._world.probe(truth)
        messages = self._messages
        travel = self._draws.randrange(100) if messages.lost or messages.late else 100
        if travel < messages.lost:
            result = ProbeResult(answered=False, detail="timed out")
        elif travel < messages.lost + messages.late:
            self._later(lambda: self._probed(truth, probe, result))
            return
        self._probed(truth, probe, result)

    def _due_probe(self, truth: Truth, settings: ProbeSettings) -> DueProbe:
        return DueProbe(
            machine=truth.id,
            address=f"sim:{truth.name}",
            settings=settings,
            begun_at=self._process.engine_now(),
        )

    def _probed(self, truth: Truth, probe: DueProbe, result: ProbeResult) -> None:
        if result.status != 200:
            truth.doubted_at = self._kernel.now
        self.watch.probed(probe, result, now=self._process.engine_now())

    def _later(self, work: Callable[[], object]) -> None:
        wait = self._draws.uniform(1.0, self._messages.late_s)
        self._kernel.after(wait, lambda: self._process.guarded(work))

"""One server process: the engine's own code, driven by events instead of threads and sleeps.

It can be killed between any two writes, frozen (and go on later, not knowing that it was), and
run beside another one.  All it knew is lost with it; what it had begun on the platform either
goes on by itself or stops half-way.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from upkeep.engine.clock import EngineClock
from upkeep.engine.executor import HEARTBEAT, Executor
from upkeep.engine.fleet_store import ActionResult, LeasedAction
from upkeep.engine.loop import Engine
from upkeep.platforms.simulated import SimulatedPlatform
from upkeep.ports import DriverError, MachineSpec, OsImage
from upkeep.sim.kernel import Kernel, moment
from upkeep.sim.memory import Killed, MemoryStore
from upkeep.sim.witnesses import Messages, Witnesses
from upkeep.sim.world import World, os_image

# The platform of the groups whose agents restart their machines.
RESTARTED_BY_AGENT = "restarted by its agent"
# Actions that one process performs at once.
SLOTS = 64


class Blocked(BaseException):
    """A driver call would block until then; make it again at that moment."""

    def __init__(self, until: float) -> None:
        super().__init__(until)
        self.until = until


@dataclass(slots=True)
class WallClock:
    """The host's clocks: the wall may be wrong, the monotonic one is true."""

    kernel: Kernel
    offset_s: float = 0.0

    def now(self) -> datetime:
        return moment(self.kernel.now + self.offset_s)

    def monotonic(self) -> float:
        return self.kernel.now


class SimulatedProvisioner:
    """Every image is there and sound."""

    def image(self, leased: LeasedAction) -> OsImage:
        return os_image(leased.image_name, leased.action.version)

    def spec(self, leased: LeasedAction) -> MachineSpec:
        return MachineSpec(
            name=leased.machine_name,
            uuid=leased.action.machine,
            image=self.image(leased),
            model=leased.action.model,
        )

    def seed(self, leased: LeasedAction) -> Mapping[str, bytes]:
        return {}


@dataclass(slots=True, kw_only=True)
class Site:
    """What all processes share: the world outside them, and the one database."""

    kernel: Kernel
    world: World
    store: MemoryStore
    platform: SimulatedPlatform
    wall: WallClock
    messages: Messages
    draws: random.Random
    tick_s: float


class Replica:
    """See the module text.

    Args:
        watches: it is the process that probes and hears agents.
        on_death: told when it was killed from within.
    """

    def __init__(
        self,
        site: Site,
        name: str,
        *,
        watches: bool,
        on_enter: Callable[["Replica | None"], None],
        on_death: Callable[["Replica"], None],
    ) -> None:
        self.site = site
        self.name = name
        self.alive = True
        self.frozen_until = 0.0
        self.in_flight: dict[str, LeasedAction] = {}
        self.witnesses: Witnesses | None = None
        self._watches = watches
        self._on_enter = on_enter
        self._on_death = on_death
        self._tick_at: float | None = None
        self._pump_at: float | None = None
        self._beating = False
        self.clock: EngineClock | None = None
        self._busy = False
        self._hold_results = False
        self.accepted = timedelta(0)
        # Since when it can have seen anything, by the engine's time.
        self.sees_since = moment(0)
        # The engine's time, and the moment at which it was that.
        self._engine_now = (-1.0, moment(0))

    def start(self) -> None:
        """Everything a process does before its first tick."""
        self.guarded(self._start)

    def _start(self) -> None:
        site = self.site
        self.clock = EngineClock(site.wall, site.store)
        self.sees_since = self.clock.now()
        self._engine = Engine(site.store, self.clock)
        self._executor = Executor(
            site.store,
            {"simulated": site.platform, RESTARTED_BY_AGENT: site.platform},
            SimulatedProvisioner(),
            self.clock,
            owner=self.name,
            by_agent=frozenset({RESTARTED_BY_AGENT}),
        )
        if self._watches:
            self._watch()

    def _watch(self) -> None:
        self._watches = True
        site = self.site
        self.witnesses = Witnesses(
            self, site.world, site.kernel, site.store, site.messages, site.draws
        )
        self.witnesses.begin()

    def take_over_watch(self) -> None:
        self.guarded(self._watch)

    # Life.

    def guarded(self, work: Callable[[], object]) -> None:
        """Do it, if the process lives; a kill in the middle of it ends the process."""
        if not self.alive:
            return
        if self.site.kernel.now < self.frozen_until:
            self.site.kernel.at(self.frozen_until, lambda: self.guarded(work))
            return
        if self._busy:
            work()
            return
        self._busy = True
        self._on_enter(self)
        try:
            work()
        except Killed:
            self.die()
        finally:
            self._busy = False
            self._on_enter(None)

    def raise_mark(self) -> None:
        """What a live process does every few seconds, made up for where it shows."""
        if self.clock is not None:
            self.clock.now()

    def die(self) -> None:
        """What it had begun goes on by itself, or stops half-way."""
        if not self.alive:
            return
        if self.site.kernel.now >= self.frozen_until:
            self.raise_mark()
        self.alive = False
        for leased in self.in_flight.values():
            if self.site.draws.random() < 0.5:
                self._leave_running(leased)
        self.in_flight.clear()
        self.witnesses = None
        self._on_death(self)

    def freeze(self, until: float, *, in_mid_step: bool) -> None:
        """It stands still (its machine was suspended); the hypervisor does not.

        Args:
            in_mid_step: it is caught between what the platform answers and the writing of it.
        """
        self.raise_mark()
        self.frozen_until = until
        self._hold_results = in_mid_step
        for leased in self.in_flight.values():
            self._leave_running(leased)
        self.witnesses = None
        self._watches = False

    def _leave_running(self, leased: LeasedAction) -> None:
        machine = self.site.platform.machines.get(leased.machine_name)
        call = machine.call if machine is not None else None
        if machine is None or call is None or call.key != leased.action.key:
            return

        def end() -> None:
            try:
                self.site.platform.end_call(machine, call)
            except DriverError:
                pass  # Somebody else works on the machine by now.

        self.site.kernel.at(call.ends_at, end)

    def engine_now(self) -> datetime:
        """Asked by every witness at one moment: the first answer is kept for it."""
        assert self.clock is not None
        asked_at, now = self._engine_now
        if asked_at != self.site.kernel.now:
            now = self.clock.now()
            self._engine_now = (self.site.kernel.now, now)
        return now

    # Ticks.

    def wake(self, tick_due: datetime | None, action_due: datetime | None) -> None:
        """The store has work that is due then: see to it on this process's own grid."""
        if not self.alive or self.clock is None:
            return
        if tick_due is not None:
            at = self._on_grid(tick_due, self.site.tick_s)
            if self._tick_at is None or at < self._tick_at:
                self._tick_at = at
                self.site.kernel.at(at, partial(self._tick_event, at))
        if action_due is not None and len(self.in_flight) < SLOTS:
            at = self._on_grid(action_due, 0.5)
            if self._pump_at is None or at < self._pump_at:
                self._pump_at = at
                self.site.kernel.at(at, partial(self._pump_event, at))

    def _on_grid(self, due: datetime, grid_s: float) -> float:
        assert self.clock is not None
        now = self.site.kernel.now
        ahead = (due - self.clock.now()).total_seconds()
        return ((now + max(0.0, ahead)) // grid_s + 1) * grid_s

    def _tick_event(self, at: float) -> None:
        if self._tick_at == at:
            self._tick_at = None
            self.guarded(self.tick)

    def tick(self) -> None:
        self._engine.tick()

    def _pump_event(self, at: float) -> None:
        if self._pump_at == at:
            self._pump_at = None
            self.guarded(self._pump)

    def _pump(self) -> None:
        for leased in self._executor.claim(SLOTS - len(self.in_flight)):
            self.in_flight[leased.action.key] = leased
            self._perform(leased)
        if self.in_flight and not self._beating:
            self._beating = True
            self._beat_later()

    def _perform(self, leased: LeasedAction) -> None:
        """One try at the call; a call that blocks comes here again when it is over."""
        if self.in_flight.get(leased.action.key) is not leased:
            return
        try:
            result = self._executor.perform(leased)
        except Blocked as blocked:
            self.site.kernel.at(blocked.until, lambda: self._perform_again(leased))
            return
        self._finish(leased, result)

    def _perform_again(self, leased: LeasedAction) -> None:
        if self._hold_results and self.alive and self.site.kernel.now < self.frozen_until:
            # The answer comes in the last moment before the process stands still.
            if self.in_flight.get(leased.action.key) is leased:
                try:
                    result = self._executor.perform(leased)
                except Blocked:
                    return
                self.guarded(lambda: self._finish(leased, result))
            return
        self.guarded(lambda: self._perform(leased))

    def _finish(self, leased: LeasedAction, result: ActionResult) -> None:
        self.in_flight.pop(leased.action.key, None)
        self._executor.finish(leased, result)
        truth = self.site.world.machines.get(leased.machine_name)
        if self.witnesses is not None and truth is not None:
            self.witnesses.worked_on(truth)

    def _beat_later(self) -> None:
        self.site.kernel.after(HEARTBEAT.total_seconds(), lambda: self.guarded(self._beat))

    def _beat(self) -> None:
        for leased in list(self.in_flight.values()):
            self._executor.heartbeat(leased)
        self._beating = bool(self.in_flight)
        if self._beating:
            self._beat_later()

    def accept_step(self) -> timedelta:
        """An operator says that the wall clock is right."""
        assert self.clock is not None
        step = self.clock.accept_step()
        self._engine_now = (-1.0, moment(0))
        # A step forward moves the engine's time; a step back is tolerated from now on.
        self.accepted = min(step, timedelta(0))
        if step > timedelta(0):
            self.sees_since = self.clock.now()
        return step

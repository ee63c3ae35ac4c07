"""Drives the engine in real time: one planner thread, a pool of workers, a prober.

Nothing is decided here.  The planner thread plans what is due, hands claimed actions to the
workers, and sleeps until something is marked or due.  Every 20 s it keeps the leases of what the
workers are doing; every few seconds it looks for agents that fell silent; every 30 s it asks the
platforms how their machines are.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from upkeep.core.snapshot import Plan
from upkeep.engine.clock import EngineClock
from upkeep.engine.executor import HEARTBEAT, Executor
from upkeep.engine.fleet_store import ActionResult, FleetStore, LeasedAction
from upkeep.engine.health_watch import HealthWatch
from upkeep.engine.loop import Engine

log = logging.getLogger("upkeep.server")

SLEEP_MAX_S = 1.0
SWEEP_EVERY = timedelta(seconds=2)
RELOAD_EVERY = timedelta(seconds=30)


class Background(Protocol):
    """Work that is looked for at every turn and done beside it."""

    def waiting(self) -> bool: ...

    def __call__(self) -> None: ...


class Nothing:
    """A `Background` with nothing to do."""

    def waiting(self) -> bool:
        return False

    def __call__(self) -> None:
        pass


class Runner:
    """Starts and stops the threads; `wake` may be called from any of them.

    Args:
        survey: asks the platforms about their machines and writes what changed.
        staging: brings published versions to the platforms; answers whether any is waiting.
        on_plan: told of each plan that was written.
    """

    def __init__(
        self,
        store: FleetStore,
        clock: EngineClock,
        executor: Executor,
        watch: HealthWatch,
        *,
        workers: int,
        survey: Callable[[], None],
        staging: Background,
        on_plan: Callable[[Plan], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._executor = executor
        self._watch = watch
        self._workers = workers
        self._survey = survey
        self._staging = staging
        self._is_staging = False
        self._on_plan = on_plan
        self._engine = Engine(store, clock, on_plan=self._planned)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="action")
        self._under_way: dict[str, LeasedAction] = {}
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._reload = True
        self._due_at: dict[str, datetime] = {}
        self.ticks = 0
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Start nothing more and wait for the planner; what workers do is left to its lease."""
        self._stopping.set()
        self._woken.set()
        self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def wake(self) -> None:
        self._woken.set()

    def reload_watch(self) -> None:
        """The set of watched machines, or how they are probed, has changed."""
        self._reload = True
        self._woken.set()

    def _planned(self, plan: Plan) -> None:
        for line in plan.story:
            log.info("group=%s %s", plan.group.name, line)
        if plan.machines:
            self._reload = True
        self._on_plan(plan)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                self._turn()
            except Exception:  # A broken database must not end the loop: it may come back.
                log.exception("the engine's turn failed; it is tried again in a second")
                self._stopping.wait(1.0)
            self._woken.wait(self._sleep_s())

    def _turn(self) -> None:
        now = self._clock.now()
        if self._is_due("reload", RELOAD_EVERY, now) or self._reload:
            self._reload = False
            self._watch.load(self._store.watched(), now=now)
        self._engine.tick()
        self._pump()
        if self._is_due("sweep", SWEEP_EVERY, now):
            self._watch.sweep(now=now)
        if self._is_due("heartbeat", HEARTBEAT, now):
            self._keep_leases()
        if self._is_due("survey", RELOAD_EVERY, now):
            self._pool.submit(self._survey_safely)
        if not self._is_staging and self._staging.waiting():
            self._is_staging = True
            self._pool.submit(self._stage_safely)
        self.ticks += 1

    def _is_due(self, what: str, every: timedelta, now: datetime) -> bool:
        if self._due_at.get(what, now) > now:
            return False
        self._due_at[what] = now + every
        return True

    def _sleep_s(self) -> float:
        """Until the next group is due, at most a second."""
        try:
            next_wake = self._store.next_wake()
        except Exception:
            log.exception("the database cannot be asked when the next group is due")
            return SLEEP_MAX_S
        if next_wake is None:
            return SLEEP_MAX_S
        wait = (next_wake - self._clock.peek()).total_seconds()
        return min(max(wait, 0.02), SLEEP_MAX_S)

    def _pump(self) -> None:
        with self._lock:
            free = self._workers - len(self._under_way)
        if free <= 0:
            return
        for leased in self._executor.claim(free):
            with self._lock:
                self._under_way[leased.action.key] = leased
            log.info(
                "action=%s machine=%s attempt=%d begins",
                leased.action.key, leased.machine_name, leased.attempts,
            )  # fmt: skip
            future = self._pool.submit(self._executor.perform, leased)
            future.add_done_callback(partial(self._finished, leased))

    def _finished(self, leased: LeasedAction, done: Future[ActionResult]) -> None:
        with self._lock:
            self._under_way.pop(leased.action.key, None)
        if done.cancelled():
            return
        try:
            result = done.result()
            self._executor.finish(leased, result)
            self._watch.update(self._store.watched([leased.action.machine]), now=self._clock.now())
        except Exception:  # The lease runs out and the action is claimed again.
            log.exception("action=%s: its outcome could not be recorded", leased.action.key)
        else:
            log.info(
                "action=%s machine=%s succeeded=%s %s %s",
                leased.action.key, leased.machine_name, result.succeeded,
                result.kind, result.detail,
            )  # fmt: skip
        self.wake()

    def _keep_leases(self) -> None:
        with self._lock:
            leases = list(self._under_way.values())
        for leased in leases:
            self._executor.heartbeat(leased)

    def _stage_safely(self) -> None:
        try:
            self._staging()
        except Exception:  # The replicas are still waiting: it is tried again.
            log.exception("bringing images to the platforms failed")
        finally:
            self._is_staging = False
            self.wake()

    def _survey_safely(self) -> None:
        try:
            self._survey()
        except Exception:  # Best effort: the next survey is in half a minute.
            log.exception("a survey of the platforms failed")

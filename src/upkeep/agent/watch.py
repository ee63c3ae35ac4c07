"""The probe thread: looks at the application and keeps its health.

What an answer means is in `health.py`, how it is got in `probe.py`; here is only when.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import durable, health, report, seed
from .health import Health, Observation, ProbeSettings
from .log import log
from .report import HealthReport

FILE_NAME = "probe.json"  # The last health source the server gave; the seed's is only the first.


class HealthWatch:
    """The machine's health source and its state; safe to use from every thread.

    Args:
        look: makes one probe; may block, must not raise.
        nudge: called when the state has changed, outside the lock.
    """

    def __init__(
        self,
        state_dir: Path,
        seed_dir: Path,
        *,
        look: Callable[[ProbeSettings], Observation],
        nudge: Callable[[], None],
    ) -> None:
        self._state_dir = state_dir
        self._look = look
        self._nudge = nudge
        self._changed = threading.Condition()
        self._settings: ProbeSettings | None = None
        self._health: Health | None = None
        self._since = report.utc_text(time.time())
        self._use(_first_settings(state_dir, seed_dir))

    def use(self, raw: Mapping[str, Any] | None) -> None:
        """Takes the group's health source from a reply; None means that there is none.

        An equal one changes nothing, so that health does not begin anew with every reply.  One
        that breaks a rule is logged and passed over: the last good one goes on.
        """
        try:
            settings = None if raw is None else health.parse_settings(raw)
        except health.SettingsError as error:
            log("probe_refused", detail=error)
            return
        with self._changed:
            if settings == self._settings:
                return
            self._use(settings)
            self._changed.notify_all()
        wire = None if settings is None else health.settings_to_json(settings)
        durable.write_json(self._state_dir / FILE_NAME, wire)
        log("probe", source="none" if wire is None else wire)
        self._nudge()

    def report(self) -> HealthReport:
        """Health as of now: a grace period that is over is seen without another probe."""
        with self._changed:
            if self._settings is not None and self._health is not None:
                self._put(health.expire(self._settings, self._health, now=time.monotonic()))
            return report.health_report(self._health, since=self._since)

    def probe_once(self, stopping: threading.Event) -> None:
        """One probe and the wait until the next is due, counted from start to start."""
        with self._changed:
            settings = self._settings
            if settings is None:
                self._changed.wait_for(lambda: self._settings is not None or stopping.is_set())
                return
        started = time.monotonic()
        observation = self._look(settings)
        with self._changed:
            if self._settings is not settings or self._health is None:
                return  # The source was changed while we looked; this answer is about another.
            now = time.monotonic()
            has_changed = self._put(health.observe(settings, self._health, observation, now=now))
        if has_changed:
            self._nudge()
        self._wait_until(started + settings.interval_s, settings, stopping)

    def wake(self) -> None:
        """Lets `probe_once` see that the agent stops."""
        with self._changed:
            self._changed.notify_all()

    def _wait_until(self, due: float, settings: ProbeSettings, stopping: threading.Event) -> None:
        with self._changed:
            while self._settings is settings and not stopping.is_set():
                now = time.monotonic()
                if now >= due:
                    return
                assert self._health is not None
                has_changed = self._put(health.expire(settings, self._health, now=now))
                if has_changed:
                    break
                ends_at = self._health.grace_ends_at
                until = due if ends_at is None or ends_at <= now else min(due, ends_at)
                self._changed.wait(until - now)
            else:
                return
        self._nudge()
        self._wait_until(due, settings, stopping)

    def _use(self, settings: ProbeSettings | None) -> None:
        self._settings = settings
        self._health = None if settings is None else health.start(settings, now=time.monotonic())
        self._since = report.utc_text(time.time())

    def _put(self, after: Health) -> bool:
        """Keeps the new health; True when there is something to tell at once."""
        before, self._health = self._health, after
        assert before is not None
        if after.state is not before.state:
            self._since = report.utc_text(time.time())
            log("health", state=after.state, detail=after.detail)
            return True
        return after.metrics != before.metrics


def _first_settings(state_dir: Path, seed_dir: Path) -> ProbeSettings | None:
    """What the server said last, else what the seed says; a bad one does not stop the agent."""
    try:
        path = state_dir / FILE_NAME
        raw = durable.read_json(path) if path.exists() else seed.read_probe(seed_dir)
        return None if raw is None else health.parse_settings(raw)
    except (OSError, ValueError, TypeError, seed.SeedError) as error:
        log("probe_refused", detail=error)
        return None

"""Asks the alarms of all groups, each every quarter of a minute, and writes what has changed.

Who does not answer for a minute is unknown; until then the last answer stands.  One thread keeps
the time, a few more ask; nothing is written while nothing changes.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import Protocol

from upkeep.core.alarm import AlarmState
from upkeep.engine.prometheus import Answer, CannotAskError
from upkeep.ports import Clock

ASK_EVERY_S = 15.0
UNKNOWN_AFTER_S = 60.0
ASKED_AT_ONCE = 8
_LOOK_EVERY_S = 5.0

log = logging.getLogger("upkeep.engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedAlarm:
    id: str
    url: str
    query: str
    state: AlarmState


class AlarmStore(Protocol):
    def alarms(self) -> Sequence[AskedAlarm]: ...

    def tell_alarm(self, alarm: str, state: AlarmState, detail: str) -> None:
        """Write an answer, and make the alarm's group due."""
        ...


class AlarmLoop:
    """See the module text.

    Args:
        ask: raises CannotAskError.
    """

    def __init__(self, store: AlarmStore, ask: Callable[[str, str], Answer], clock: Clock) -> None:
        self._store = store
        self._ask = ask
        self._clock = clock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)
        self._pool = futures.ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="alarm")
        self._due: dict[str, float] = {}
        self._answered: dict[str, float] = {}
        self._under_way: set[str] = set()
        self._asking: list[futures.Future[None]] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        self.stop_asking()

    def stop_asking(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.look()
            except Exception:
                # A database that is away comes back; nothing is asked until then.
                log.exception("the alarms could not be read")
            self._stopped.wait(_LOOK_EVERY_S)

    def look(self) -> None:
        """Ask those that are due; the answers are written as they come."""
        now = self._clock.monotonic()
        alarms = self._store.alarms()
        known = {alarm.id for alarm in alarms}
        for gone in self._due.keys() - known:
            del self._due[gone]
            self._answered.pop(gone, None)
        for alarm in alarms:
            self._answered.setdefault(alarm.id, now)
            if self._due.get(alarm.id, now) <= now and alarm.id not in self._under_way:
                self._due[alarm.id] = now + ASK_EVERY_S
                self._under_way.add(alarm.id)
                self._asking.append(self._pool.submit(self._ask_one, alarm))
        self._asking = [asking for asking in self._asking if not asking.done()]

    def wait(self) -> None:
        """Until whoever is being asked has answered."""
        futures.wait(self._asking)

    def _ask_one(self, alarm: AskedAlarm) -> None:
        try:
            answer = self._answer_of(alarm)
            if answer is not None and answer.state is not alarm.state:
                self._store.tell_alarm(alarm.id, answer.state, answer.detail)
        except Exception:
            log.exception("the answer of alarm %s could not be written", alarm.id)
        finally:
            self._under_way.discard(alarm.id)

    def _answer_of(self, alarm: AskedAlarm) -> Answer | None:
        """None: not answered, and not for long enough to say so."""
        try:
            answer = self._ask(alarm.url, alarm.query)
        except CannotAskError as error:
            now = self._clock.monotonic()
            if now - self._answered.get(alarm.id, now) < UNKNOWN_AFTER_S:
                return None
            return Answer(state=AlarmState.UNKNOWN, detail=str(error))
        self._answered[alarm.id] = self._clock.monotonic()
        return answer

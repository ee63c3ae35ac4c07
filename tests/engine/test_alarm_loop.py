"""Which alarm is asked when, and what is written of the answers."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from upkeep.core.alarm import AlarmState
from upkeep.engine.alarms import AlarmLoop, AskedAlarm
from upkeep.engine.prometheus import Answer, CannotAskError

QUIET = Answer(state=AlarmState.QUIET, detail="nothing")
FIRING = Answer(state=AlarmState.FIRING, detail="it is 7")


@dataclass
class HandClock:
    seconds: float = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 5, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Store:
    states: dict[str, AlarmState]
    told: list[tuple[str, AlarmState, str]] = field(default_factory=list)
    is_broken: bool = False

    def alarms(self) -> Sequence[AskedAlarm]:
        return [
            AskedAlarm(id=each, url="http://p", query=each, state=state)
            for each, state in self.states.items()
        ]

    def tell_alarm(self, alarm: str, state: AlarmState, detail: str) -> None:
        if self.is_broken:
            raise OSError("the disk is full")
        self.states[alarm] = state
        self.told.append((alarm, state, detail))


class Asked:
    """The loop with what it asks; `look` waits until all answers are written."""

    def __init__(self, **states: AlarmState) -> None:
        self.clock = HandClock()
        self.store = Store(dict(states))
        self.answers: dict[str, Answer | None] = {}
        self.questions: list[str] = []
        self.loop = AlarmLoop(self.store, self._ask, self.clock)

    def _ask(self, url: str, query: str) -> Answer:
        self.questions.append(query)
        answer = self.answers.get(query)
        if answer is None:
            raise CannotAskError("no answer")
        return answer

    def look(self, *, after_s: float = 0.0) -> None:
        self.clock.seconds += after_s
        self.loop.look()
        self.loop.wait()


def test_each_is_asked_at_once_and_then_every_quarter_of_a_minute() -> None:
    asked = Asked(a=AlarmState.UNKNOWN, b=AlarmState.UNKNOWN)
    asked.answers = {"a": QUIET, "b": QUIET}
    asked.look()
    asked.look(after_s=14.9)
    assert sorted(asked.questions) == ["a", "b"]
    asked.look(after_s=0.2)
    assert sorted(asked.questions) == ["a", "a", "b", "b"]


def test_only_what_has_changed_is_written() -> None:
    asked = Asked(a=AlarmState.UNKNOWN)
    for answer in (QUIET, QUIET, FIRING, FIRING, QUIET):
        asked.answers["a"] = answer
        asked.look(after_s=15)
    assert asked.store.told == [
        ("a", AlarmState.QUIET, "nothing"),
        ("a", AlarmState.FIRING, "it is 7"),
        ("a", AlarmState.QUIET, "nothing"),
    ]


def test_who_does_not_answer_for_a_minute_is_unknown_and_not_before() -> None:
    asked = Asked(a=AlarmState.QUIET)
    asked.answers["a"] = QUIET
    asked.look()
    asked.answers["a"] = None
    for _ in range(3):
        asked.look(after_s=15)
    assert asked.store.told == []
    asked.look(after_s=15)
    assert asked.store.told == [("a", AlarmState.UNKNOWN, "no answer")]
    asked.answers["a"] = QUIET
    asked.look(after_s=15)
    assert asked.store.states["a"] is AlarmState.QUIET


def test_one_that_is_deleted_is_asked_no_more_and_a_new_one_at_once() -> None:
    asked = Asked(a=AlarmState.QUIET)
    asked.answers = {"a": QUIET, "b": QUIET}
    asked.look()
    asked.store.states = {"b": AlarmState.QUIET}
    asked.look(after_s=1)
    assert asked.questions == ["a", "b"]


def test_an_answer_that_could_not_be_written_is_written_next_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = Asked(a=AlarmState.QUIET)
    asked.answers["a"] = FIRING
    asked.store.is_broken = True
    asked.look()
    assert "could not be written" in caplog.text
    asked.store.is_broken = False
    asked.look(after_s=15)
    assert asked.store.states["a"] is AlarmState.FIRING


def test_one_that_takes_long_keeps_nobody_else_waiting_and_is_not_asked_twice() -> None:
    asked = Asked(slow=AlarmState.UNKNOWN, quick=AlarmState.UNKNOWN)
    asked.answers = {"slow": QUIET, "quick": FIRING}
    released, plain = threading.Event(), asked.loop._ask

    def ask(url: str, query: str) -> Answer:
        if query == "slow":
            released.wait(20)
        return plain(url, query)

    asked.loop._ask = ask
    for _ in range(3):
        asked.loop.look()
        _wait_until(lambda: asked.store.states["quick"] is AlarmState.FIRING)
        asked.clock.seconds += 15
    released.set()
    asked.loop.wait()
    assert asked.questions.count("slow") == 1
    assert asked.store.states["slow"] is AlarmState.QUIET


def _wait_until(is_so: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not is_so():
        pause.wait(0.005)

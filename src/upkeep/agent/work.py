"""The commands in hand: journal, workers, outcomes.  What to do next is decided in `step.py`.

Every change is written before it is kept in memory, so a full disk stops work and loses none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from . import journal, process, step
from .log import log
from .machine import Paths
from .step import Effect, Journal, Verb
from .wire import Command, Done, Outcome


class Work:
    """The journal and the one command that runs; safe to use from every thread.

    Args:
        boot_id: of the running boot; asked anew each time.
        reboot: restarts the machine; returns why it did not, empty when it will.
        nudge: called when an outcome is there or a command came, outside the lock.
        is_stopping: true once the agent is ending: what runs is cut short, and begun again by
            the next agent.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        boot_id: Callable[[], str],
        reboot: Callable[[], str],
        nudge: Callable[[], None],
        is_stopping: Callable[[], bool],
        restart_max_s: float,
    ) -> None:
        self._paths = paths
        self._boot_id = boot_id
        self._reboot = reboot
        self._nudge = nudge
        self._is_stopping = is_stopping
        self._restart_max_s = restart_max_s
        self._lock = threading.Lock()
        self._journal = journal.load(paths.state)
        self._in_hand: dict[str, float] = {}  # Key: when its effect was begun.

    def accept(self, commands: Sequence[Command]) -> bool:
        """Writes down what came; False when it brought nothing new."""
        with self._lock:
            before = self._journal
            self._keep(step.accept(before, commands))
            has_changed = self._journal is not before
        if has_changed:
            self._nudge()
        return has_changed

    def pending(self) -> tuple[Done, ...]:
        with self._lock:
            return step.pending_done(self._journal)

    def acknowledge(self, sent: Sequence[Done]) -> None:
        with self._lock:
            self._keep(step.acknowledge(self._journal, sent))

    def move_on(self) -> None:
        """Does all that can be done now; what takes long is begun in a thread of its own."""
        for _ in range(step.ENTRIES_MAX):
            with self._lock:
                before = self._journal
                self._end_overdue_restart()
                after, effect = step.next_effect(
                    self._journal, boot_id=self._boot_id(), in_hand=frozenset(self._in_hand)
                )
                self._keep(after)
                if effect is not None:
                    self._in_hand[effect.key] = time.monotonic()
                has_moved = self._journal is not before
            if effect is not None:
                self._begin(effect)
            elif not has_moved:
                return

    def _begin(self, effect: Effect) -> None:
        log("command", verb=effect.verb, key=effect.key)
        body = self._drain if effect.verb is Verb.DRAIN else self._restart
        threading.Thread(
            target=self._guarded, args=(body, effect), name=effect.verb.value, daemon=True
        ).start()

    def _guarded(self, body: Callable[[Effect], None], effect: Effect) -> None:
        try:
            body(effect)
        except Exception as error:
            # Whatever it was, the command must get an answer or the rollout waits for ever.
            self._finish(effect.key, Outcome.FAILED, f"{type(error).__name__}: {error}")

    def _drain(self, effect: Effect) -> None:
        hook = self._paths.drain
        if not hook.exists():
            self._finish(effect.key, Outcome.SUCCEEDED, f"there is no {hook}")
            return
        finished = process.run(
            [str(hook)], timeout_s=effect.timeout_s, is_stopping=self._is_stopping
        )
        if self._is_stopping():
            return  # Cut short, not failed.
        outcome = Outcome.SUCCEEDED if finished.succeeded else Outcome.FAILED
        self._finish(effect.key, outcome, finished.words)

    def _restart(self, effect: Effect) -> None:
        problem = self._reboot()
        if problem:
            self._finish(effect.key, Outcome.FAILED, f"the restart was refused: {problem}")
        else:
            self._nudge()

    def _finish(self, key: str, outcome: Outcome, detail: str) -> None:
        with self._lock:
            self._keep(step.finish(self._journal, key, outcome, detail))
            self._in_hand.pop(key, None)
        log("command_done", key=key, outcome=outcome, detail=detail)
        self._nudge()

    def _end_overdue_restart(self) -> None:
        """A restart that was asked for and did not come is a failure, not a wait for ever."""
        for key, begun in list(self._in_hand.items()):
            entry = step.find(self._journal, key)
            if entry is None or entry.state is step.EntryState.DONE:
                del self._in_hand[key]
            elif (
                entry.verb == Verb.RESTART.value
                and entry.boot_id == self._boot_id()
                and time.monotonic() - begun > self._restart_max_s
            ):
                del self._in_hand[key]
                detail = f"the machine did not go down within {self._restart_max_s:g} s"
                self._keep(step.finish(self._journal, key, Outcome.FAILED, detail))

    def _keep(self, after: Journal) -> None:
        if after is not self._journal:
            journal.save(self._paths.state, after)
            self._journal = after

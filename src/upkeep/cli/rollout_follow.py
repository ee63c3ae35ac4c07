"""Follows a rollout until it has ended: woken by the server's events, else by looking again.

The events only say "look": what is shown is always read afresh, so a lost event costs seconds.
While the server sends events a look in between is rare; without them there is one every other
second.  A server that is away for a while (a restart, an upgrade) is waited for.
"""

import threading
import time
from datetime import UTC, datetime

from upkeep.cli.client import Client, connect
from upkeep.cli.exit_codes import CommandFailed, ExitCode
from upkeep.cli.output import note
from upkeep.cli.rollout_display import Show
from upkeep.cli.rollout_view import RolloutView, parse_rollout

LOOK_EVERY_S = 2.0  # Without events.
LOOK_WITH_EVENTS_EVERY_S = 15.0  # An event may be lost.
LOOKS_APART_S = 0.25  # A busy group may send many events a second.
REDRAW_EVERY_S = 0.5
LISTEN_AGAIN_AFTER_S = 5.0
# A server that is being upgraded is back by then.
AWAY_S_MAX = 120.0


class _Wakes:
    """Listens to the server's events in a thread that dies with the process.

    Attributes:
        group: whose events wake the follower; empty until that is known.
    """

    def __init__(self) -> None:
        self.group = ""
        self.woken = threading.Event()
        self.is_listening = False
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """It ends with its next event, or with the process."""
        self._is_over.set()

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                with connect() as client:
                    for group in client.events():
                        if self._is_over.is_set():
                            return
                        self.is_listening = True
                        if group and group == self.group:
                            self.woken.set()
            except CommandFailed:
                pass  # No events from there, or no longer: the follower looks by itself.
            self.is_listening = False
            self._is_over.wait(LISTEN_AGAIN_AFTER_S)


def read_rollout(client: Client, rollout: str) -> RolloutView:
    """The rollout as it is now, with the holds of its group."""
    document = client.get(f"/v1/rollouts/{rollout}")
    holds = client.list("/v1/holds", limit=HOLDS_MAX, group=document["group"])
    return parse_rollout(document, holds)


HOLDS_MAX = 1000  # Those of one page; more would not be read by anybody.


def follow(client: Client, rollout: str, show: Show, *, timeout_s: float | None) -> RolloutView:
    """The rollout once it has ended.

    Raises:
        CommandFailed: TIMED_OUT, or the server stayed away for two minutes, or said no.
    """
    wakes = _Wakes()
    wakes.start()
    started = time.monotonic()
    try:
        while True:
            wakes.woken.clear()
            view = _read_patiently(client, rollout)
            wakes.group = view.group
            show(view)
            if not view.is_open:
                return view
            left = None if timeout_s is None else timeout_s - (time.monotonic() - started)
            if left is not None and left <= 0:
                raise CommandFailed(
                    ExitCode.TIMED_OUT,
                    f"The rollout {rollout} has not ended in time.",
                    f"It goes on; look again: upkeep rollout show {rollout} --follow.",
                )
            _wait_for_news(wakes, view, show, left)
    finally:
        wakes.stop()


def _wait_for_news(wakes: _Wakes, view: RolloutView, show: Show, left: float | None) -> None:
    wait = LOOK_WITH_EVENTS_EVERY_S if wakes.is_listening else LOOK_EVERY_S
    until = time.monotonic() + (wait if left is None else min(wait, left))
    time.sleep(LOOKS_APART_S)
    while not wakes.woken.is_set() and (rest := until - time.monotonic()) > 0:
        wakes.woken.wait(min(rest, REDRAW_EVERY_S))
        show(view)


def _read_patiently(client: Client, rollout: str) -> RolloutView:
    """Waits for a server that is away; every other failure is final."""
    away_since: datetime | None = None
    while True:
        try:
            return read_rollout(client, rollout)
        except CommandFailed as failed:
            if failed.code not in (ExitCode.UNREACHABLE, ExitCode.TIMED_OUT):
                raise
            now = datetime.now(UTC)
            if away_since is None:
                note(f"{failed.what} Waiting for it; the rollout does not need this command.")
            away_since = away_since or now
            if (now - away_since).total_seconds() > AWAY_S_MAX:
                raise
        time.sleep(LOOK_EVERY_S)

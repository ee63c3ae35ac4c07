"""The running agent: a main thread that talks, one that probes, one that polls, workers.

  main   enrols, checks in when something changed or a heartbeat is due, moves the journal on
  probe  looks at the application, start to start (`watch.py`)
  poll   keeps one request open at the server, where the server asks for it
  work   first boot, a drain hook, a restart: what may take long, one thread each (`work.py`)

Nothing here decides what a command or an answer means (`step.py`, `health.py`, `wire.py`).  No
exception ends a thread: it is logged, and after a pause the thread goes on.  No lock is held
over the network or a child process.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from . import enrol, first_boot, identity, machine, probe, report, seed, transport, wire
from .first_boot import FirstBoot, FirstBootState
from .identity import Identity
from .log import log, log_exception
from .machine import Paths
from .timing import Timing, retry_delay_s, spread
from .watch import HealthWatch
from .wire import Done, PollMode, Reply
from .work import Work

CHECK_IN_PATH = "/agent/v1/check-in"
POLL_PATH = "/agent/v1/poll"
JOIN_TIMEOUT_S = 5.0  # At the end; threads are daemons, so one that hangs does not keep us.


class Agent:
    """One agent over one state directory.  `run` returns after `stop`.

    Args:
        reboot: restarts the machine; returns why it did not, empty when it will.
        boot_id: of the running boot; asked anew each time.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        reboot: Callable[[], str] | None = None,
        boot_id: Callable[[], str] | None = None,
        timing: Timing | None = None,
    ) -> None:
        paths.state.mkdir(parents=True, exist_ok=True)
        self._paths = paths
        self._timing = timing or Timing()
        self._boot_id = boot_id or (lambda: machine.boot_id(paths))
        self._random = random.Random()
        self._stopping = threading.Event()
        self._wakeup = threading.Condition()
        self._is_nudged = False
        self._must_check_in = False
        self._watch = HealthWatch(paths.state, paths.seed, look=probe.look, nudge=self._nudge)
        self._work = Work(
            paths,
            boot_id=self._boot_id,
            reboot=reboot or (lambda: machine.reboot(machine.reboot_command())),
            nudge=self._nudge,
            is_stopping=self._stopping.is_set,
            restart_max_s=self._timing.restart_max_s,
        )
        self._first_boot = FirstBoot(FirstBootState.RUNNING)
        self._identity = identity.load(paths.state)
        self._poll_wanted: Reply | None = None  # The check-in's answer that asks for a long poll.
        self._answered: tuple[object, ...] | None = None  # urgent_part of the last answered body.
        self._failures = 0  # Calls in a row that got no answer.
        self._poll_failures = 0
        self._conflicts = 0
        self._links: list[transport.Link] = []

    # --- Life ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Runs until `stop`; the caller's thread becomes the main one."""
        log("agent_start", boot_id=self._boot_id(), state_dir=self._paths.state)
        threads = [
            self._thread("first-boot", self._run_first_boot),
            self._thread("probe", lambda: self._watch.probe_once(self._stopping)),
            self._thread("poll", self._poll_once),
        ]
        self._forever("main", self._main_once)
        for thread in threads:
            thread.join(JOIN_TIMEOUT_S)
        log("agent_stop")

    def stop(self) -> None:
        """Ends `run`; from any thread."""
        self._stopping.set()
        self._nudge()
        self._watch.wake()
        for link in list(self._links):
            link.interrupt()

    def _thread(self, name: str, once: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._forever, args=(name, once), name=name, daemon=True)
        thread.start()
        return thread

    def _forever(self, name: str, once: Callable[[], None]) -> None:
        """Calls `once` until the agent stops; an exception costs a pause, never the thread."""
        failures = 0
        while not self._stopping.is_set():
            try:
                once()
                failures = 0
            except Exception:
                failures += 1
                log_exception("loop_error", loop=name)
                self._stopping.wait(self._retry_s(failures))

    def _nudge(self) -> None:
        """Something may have changed: main looks, and polls see a stop or a new wish."""
        with self._wakeup:
            self._is_nudged = True
            self._wakeup.notify_all()

    def _retry_s(self, failures: int) -> float:
        return retry_delay_s(failures, timing=self._timing, draw=self._random.random())

    def _open_link(self, known: Identity) -> transport.Link:
        link = transport.Link(known.server, transport.trust(known.ca_pem))
        self._links.append(link)
        return link

    def _close_link(self, link: transport.Link) -> None:
        self._links.remove(link)
        link.close()

    # --- First boot ---------------------------------------------------------------------------

    def _run_first_boot(self) -> None:
        self._first_boot = first_boot.run(self._paths, is_stopping=self._stopping.is_set)
        self._nudge()
        self._stopping.wait()

    # --- Main ---------------------------------------------------------------------------------

    def _main_once(self) -> None:
        known = self._identity
        if known is None:
            self._enrol_or_wait()
            return
        link = self._open_link(known)
        try:
            while self._identity is not None and self._identity.secret == known.secret:
                if self._stopping.is_set():
                    return
                self._work.move_on()
                self._wait(self._check_in(link, self._identity))
        finally:
            self._close_link(link)

    def _enrol_or_wait(self) -> None:
        """One attempt with the seed's token, and a wait when there is no identity after it."""
        wait_s = self._timing.refused_retry_s
        try:
            wanted = seed.read_enrolment(self._paths.seed)
            if wanted is None:
                log("not_enrolled", do="run `agent.pyz enrol`, or give the machine a seed")
            else:
                self._identity = enrol.enrol(self._paths, wanted)
                self._failures = 0
                log("enrolled", machine_id=self._identity.machine_id)
                return
        except transport.Unreachable as error:
            self._failures += 1
            wait_s = self._retry_s(self._failures)
            log("server_away", detail=error, retry_s=round(wait_s, 1))
        except (enrol.EnrolError, seed.SeedError) as error:
            log("enrol_refused", detail=error, retry_s=round(wait_s, 1))
        self._wait_for_identity(wait_s)

    def _wait_for_identity(self, seconds: float) -> None:
        """Waits, but ends at once when `agent.pyz enrol` has written an identity meanwhile."""
        mine = self._identity
        until = time.monotonic() + seconds
        while not self._stopping.is_set() and time.monotonic() < until:
            found = identity.load(self._paths.state)
            if found is not None and (mine is None or found.secret != mine.secret):
                self._identity = found
                return
            self._work.move_on()
            left_s = until - time.monotonic()
            self._stopping.wait(max(0.0, min(left_s, self._timing.facts_every_s)))

    def _check_in(self, link: transport.Link, known: Identity) -> float:
        """Makes one check-in; returns how long to wait for a reason to make the next."""
        self._must_check_in = False
        body, done = self._body(known)
        try:
            answer = link.call(CHECK_IN_PATH, body, bearer=known.bearer)
            reply = wire.parse_reply(answer)
        except transport.Refused as error:
            return self._refused(error)
        except (transport.Unreachable, wire.ProtocolError) as error:
            return self._failed(error)
        if self._failures:
            log("server_back", after_failures=self._failures)
        self._failures = 0
        self._keep_nonce(known, reply.nonce)
        # The outcomes in it are told now; one that is asked for again is a reason to talk again.
        self._answered = report.urgent_part({**body, "done": []})
        self._take(reply, done)
        with self._wakeup:
            self._poll_wanted = reply if reply.mode is PollMode.LONG else None
            self._wakeup.notify_all()
        is_long = reply.mode is PollMode.LONG
        beat_s = self._timing.long_heartbeat_s if is_long else float(reply.seconds)
        return spread(beat_s, timing=self._timing, draw=self._random.random())

    def _body(self, known: Identity) -> tuple[dict[str, Any], Sequence[Done]]:
        done = self._work.pending()
        paths = self._paths
        facts = report.Facts(
            # What the hardware says now, not what was enrolled: that is how a clone is told.
            uuid=machine.hardware_uuid(paths) or known.uuid,
            boot_id=self._boot_id(),
            image=machine.image(paths),
            os=machine.os_name(paths),
            busy=machine.busy(paths),
            reboot_required=machine.reboot_required(paths),
        )
        body = report.check_in_body(
            nonce=known.nonce,
            facts=facts,
            health=self._watch.report(),
            first_boot=self._first_boot,
            done=done,
        )
        return body, done

    def _take(self, reply: Reply, done: Sequence[Done]) -> bool:
        """Uses what any reply brings; False when it brought no command that is new."""
        self._work.acknowledge(done)
        if reply.probe_given:
            self._watch.use(reply.probe)
        return self._work.accept(reply.commands)

    def _keep_nonce(self, known: Identity, nonce: str) -> None:
        """Writes the nonce before the next request; another process's new identity wins."""
        found = identity.load(self._paths.state)
        if found is not None and found.secret != known.secret:
            self._identity = found
            return
        self._identity = replace(known, nonce=nonce)
        identity.save(self._paths.state, self._identity)

    def _failed(self, error: Exception) -> float:
        self._failures += 1
        wait_s = self._retry_s(self._failures)
        log("server_away", detail=error, retry_s=round(wait_s, 1))
        return -wait_s

    def _refused(self, error: transport.Refused) -> float:
        """What a problem document means for the identity."""
        if error.kind == "identity_conflict":
            self._conflicts += 1
            identity.set_aside_conflict(self._paths.state)
            self._identity = None
            log(
                "identity_conflict",
                detail=error.detail,
                do=enrol.conflict_advice(self._paths.state),
            )
            if self._conflicts > 1:
                # Two machines that heal themselves in turn would throw each other out for ever.
                self._wait_for_identity(self._timing.refused_retry_s)
            return 0.0
        if error.kind == "identity_unknown":
            log(
                "identity_unknown", detail=error.detail, do="run `agent.pyz enrol` with a new token"
            )
            self._enrol_or_wait()
            return 0.0
        return -max(-self._failed(error), error.retry_after_s)

    def _wait(self, seconds: float) -> None:
        """Waits for a heartbeat's time or, where the server answered, for a reason to talk.

        Args:
            seconds: negative after a failure: then nothing shortens the wait.
        """
        is_retry = seconds < 0
        until = time.monotonic() + abs(seconds)
        gap_until = time.monotonic() + min(self._timing.change_gap_s, abs(seconds))
        while not self._stopping.is_set():
            known = self._identity
            if known is None:
                return
            self._work.move_on()
            now = time.monotonic()
            if now >= until:
                return
            wait_s = min(until - now, self._timing.facts_every_s)
            if not is_retry and self._has_reason(known):
                if now >= gap_until:
                    return
                wait_s = gap_until - now
            with self._wakeup:
                # A nudge that comes in the gap has its reason seen when the gap is over.
                if not self._is_nudged or is_retry or now < gap_until:
                    self._wakeup.wait(wait_s)
                self._is_nudged = False

    def _has_reason(self, known: Identity) -> bool:
        body, _ = self._body(known)
        return self._must_check_in or report.urgent_part(body) != self._answered

    # --- Long poll ----------------------------------------------------------------------------

    def _poll_once(self) -> None:
        """Polls while the last check-in's answer asks for it."""
        with self._wakeup:
            self._wakeup.wait_for(lambda: self._poll_wanted is not None or self._stopping.is_set())
        known = self._identity
        if known is None or self._stopping.is_set():
            return
        link = self._open_link(known)
        try:
            while not self._stopping.is_set():
                wanted, current = self._poll_wanted, self._identity
                if wanted is None or current is None or current.secret != known.secret:
                    return
                self._poll(link, current, wanted.seconds)
        except (transport.Refused, transport.Unreachable, wire.ProtocolError) as error:
            self._poll_failed(error)
        finally:
            self._close_link(link)

    def _poll(self, link: transport.Link, known: Identity, seconds: int) -> None:
        asked_at = time.monotonic()
        body, done = self._body(known)
        answer = link.call(
            f"{POLL_PATH}?wait={seconds}",
            body,
            bearer=known.bearer,
            timeout_s=seconds + self._timing.poll_margin_s,
        )
        # Its nonce is not used: check-ins alone renew it, one at a time.
        has_news = self._take(wire.parse_reply(answer), done)
        self._poll_failures = 0
        gap_s = asked_at + self._timing.poll_gap_s - time.monotonic()
        if gap_s > 0 and not has_news:
            self._stopping.wait(gap_s)

    def _poll_failed(self, error: Exception) -> None:
        """No more polls until a check-in was answered, which also finds out what is wrong."""
        if self._stopping.is_set():
            return
        self._poll_failures += 1
        wait_s = self._retry_s(self._poll_failures)
        log("poll_failed", detail=error, retry_s=round(wait_s, 1))
        with self._wakeup:
            self._poll_wanted = None
        self._stopping.wait(wait_s)
        self._must_check_in = True
        self._nudge()

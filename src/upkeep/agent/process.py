"""Runs one program with a time limit and a bounded memory of what it said."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

OUTPUT_BYTES_MAX = 16 * 1024  # The end of the output is kept: it has the reason of a failure.
SLICE_S = 0.5  # How long at most until a stop or the time limit is noticed.


@dataclass(frozen=True)
class Finished:
    """Attributes:
    exit_code: as a shell would say it: 128 + n for signal n; None when it was not run to its end.
    output: standard output and error together, at most the last 16 KiB.
    problem: why it was not run to its end; empty when it was.
    """

    exit_code: int | None
    output: str
    problem: str = ""

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0

    @property
    def words(self) -> str:
        """One line for people: what went wrong, and the last thing that was said."""
        lines = self.output.strip().splitlines()
        said = f": {lines[-1].strip()}" if lines else ""
        return (self.problem or f"exit {self.exit_code}") + said


def run(
    arguments: Sequence[str],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Finished:
    """Runs to the end, the time limit or a stop; never raises for what the program does.

    The program gets a session of its own, so that the limit ends all it has started.  Output is
    read until the program itself ends: a daemon it leaves behind may hold the pipe for ever.
    """
    try:
        process = subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        return Finished(None, "", f"cannot run {arguments[0]}: {error.strerror or error}")
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    deadline = time.monotonic() + timeout_s
    tail, problem = b"", ""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while process.poll() is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or is_stopping():
                problem = f"ended after {timeout_s:g} s" if left_s <= 0 else "ended by a stop"
                _kill_group(process.pid)
                process.wait()
                break
            # At the end of the output select would return at once for ever: wait instead.
            if selector.get_map() and selector.select(min(left_s, SLICE_S)):
                chunk = _read(pipe)
                if not chunk:
                    selector.unregister(pipe)
                tail = (tail + chunk)[-OUTPUT_BYTES_MAX:]
            elif not selector.get_map():
                _wait_briefly(process, min(left_s, SLICE_S))
    tail = _drain(pipe, tail)
    process.stdout.close()
    code = process.returncode
    return Finished(
        None if problem else (128 - code if code < 0 else code),
        tail.decode("utf-8", "replace"),
        problem,
    )


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 65_536)
    except BlockingIOError:
        return b""


def _drain(pipe: int, tail: bytes) -> bytes:
    """What is in the pipe now; at most 64 reads, so that a chatty daemon cannot hold us."""
    for _ in range(64):
        chunk = _read(pipe)
        if not chunk:
            break
        tail = (tail + chunk)[-OUTPUT_BYTES_MAX:]
    return tail


def _wait_briefly(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # It ended in this very moment.

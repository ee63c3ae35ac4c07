"""Custom data and first-boot scripts: once on each OS disk, in order, over crashes.

Three files:
  /etc/upkeep/first-boot-progress.json  per step, on the OS disk; written before and after each
  /etc/upkeep/first-boot-done           the marker, on the OS disk; written at the end
  first-boot.json                       the result with the output, on the data volume

A kill in the middle of a script leads to that script being run again, and no other: scripts
should bear being begun twice.  After an OS disk replacement the first two files are gone, so all
run again.  Order and descendants: sheet §5; the names a script comes after must have succeeded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import durable, process, seed
from .log import log
from .machine import Paths
from .seed import CUSTOM_DATA, Script
from .text_enum import TextEnum
from .wire import clip

SCRIPT_TIMEOUT_S = 20 * 60.0  # The published run time limit of an extension.
OUTPUT_LENGTH_MAX = 4_096  # Kept per script: the end, where the reason of a failure stands.
MARKER = "first-boot-done"
PROGRESS = "first-boot-progress.json"
RESULT = "first-boot.json"


class StepState(TextEnum):
    RUNNING = "running"  # Begun; found after a crash it is begun again.
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"  # A script it comes after did not succeed.


class FirstBootState(TextEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class StepResult:
    state: StepState
    detail: str = ""
    output: str = ""


@dataclass(frozen=True)
class FirstBoot:
    """Where first boot stands; `detail` names what failed."""

    state: FirstBootState
    detail: str = ""
    steps: Mapping[str, StepResult] = field(default_factory=dict)

    def to_json(self) -> dict[str, str]:
        return {"state": self.state.value, "detail": clip(self.detail)}


# --- Pure -------------------------------------------------------------------------------------


def plan_steps(user_data: bytes | None, scripts: Sequence[Script]) -> tuple[Script, ...]:
    """All steps in order: the custom data first, then the scripts as they come."""
    first = () if user_data is None else (Script(CUSTOM_DATA, user_data),)
    return (*first, *scripts)


def reason_to_skip(script: Script, steps: Mapping[str, StepResult]) -> str:
    """Why it must not run; empty when all it comes after have succeeded.

    Only true descendants are left out: a script that names none of the failed ones runs.
    """
    for name in script.after:
        before = steps.get(name)
        if before is None:
            return f"comes after {name}, which did not run before it"
        if before.state is not StepState.SUCCEEDED:
            return f"comes after {name}, which was {before.state}"
    return ""


def summarize(steps: Mapping[str, StepResult]) -> FirstBoot:
    """The result of all steps; a skipped one follows from a failed one and is named too."""
    bad = [
        f"{name} {result.state}: {result.detail}"
        for name, result in steps.items()
        if result.state in (StepState.FAILED, StepState.SKIPPED)
    ]
    state = FirstBootState.FAILED if bad else FirstBootState.DONE
    return FirstBoot(state, clip("; ".join(bad)), dict(steps))


# --- Files and processes ----------------------------------------------------------------------


def read_state(paths: Paths) -> FirstBoot | None:
    """What the marker says; None when first boot has not ended on this OS disk."""
    try:
        document = durable.read_json(paths.etc / MARKER)
        if document is None:
            return None
        return FirstBoot(FirstBootState(document["state"]), str(document.get("detail", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # An image may ship the marker as an empty file, to say that nothing shall run.
        return FirstBoot(FirstBootState.DONE, "")


def run(
    paths: Paths,
    *,
    script_timeout_s: float = SCRIPT_TIMEOUT_S,
    is_stopping: Callable[[], bool] = lambda: False,
) -> FirstBoot:
    """Runs what has not run on this OS disk; returns at once when all has.

    A stop in the middle leaves the state as a crash would: RUNNING, nothing marked.
    """
    ended = read_state(paths)
    if ended is not None:
        return ended
    if not paths.seed.is_dir():
        # No platform laid a seed, or it is not mounted yet: nothing is marked, so that a seed
        # that is there at the next start is not missed.
        return FirstBoot(FirstBootState.DONE, "no seed")
    paths.etc.mkdir(parents=True, exist_ok=True)
    try:
        scripts = plan_steps(seed.read_user_data(paths.seed), seed.read_scripts(paths.seed))
    except seed.SeedError as error:
        return _end(paths, FirstBoot(FirstBootState.FAILED, clip(str(error))))
    steps = _read_progress(paths)
    for index, script in enumerate(scripts):
        known = steps.get(script.name)
        if known is not None and known.state is not StepState.RUNNING:
            continue
        why = reason_to_skip(script, steps)
        if why:
            steps[script.name] = StepResult(StepState.SKIPPED, why)
        else:
            steps[script.name] = StepResult(StepState.RUNNING)
            _write_progress(paths, steps)
            result = _run_script(paths, index, script, script_timeout_s, is_stopping)
            if is_stopping():
                return FirstBoot(FirstBootState.RUNNING, f"stopped in {script.name}", dict(steps))
            steps[script.name] = result
        log("first_boot_step", name=script.name, state=steps[script.name].state)
        _write_progress(paths, steps)
    return _end(paths, summarize({script.name: steps[script.name] for script in scripts}))


def _run_script(
    paths: Paths,
    index: int,
    script: Script,
    timeout_s: float,
    is_stopping: Callable[[], bool],
) -> StepResult:
    """Runs one script from a file of its own on the OS disk (/run may forbid programs)."""
    directory = paths.etc / "first-boot.d"
    directory.mkdir(mode=0o700, exist_ok=True)
    # By number: a script's name comes from outside and never becomes a file's.
    path = directory / f"{index:02d}"
    durable.write_whole(path, script.content, mode=0o700)
    finished = process.run(
        [os.fspath(path)], timeout_s=timeout_s, cwd=directory, is_stopping=is_stopping
    )
    return StepResult(
        StepState.SUCCEEDED if finished.succeeded else StepState.FAILED,
        "" if finished.succeeded else clip(finished.words),
        finished.output[-OUTPUT_LENGTH_MAX:],
    )


def _end(paths: Paths, result: FirstBoot) -> FirstBoot:
    """Result first, marker last: a crash between them runs nothing again, and marks later."""
    document = {**result.to_json(), "steps": _steps_to_json(result.steps)}
    durable.write_json(paths.state / RESULT, document, mode=0o600)
    durable.write_json(paths.etc / MARKER, result.to_json())
    log("first_boot", state=result.state, detail=result.detail)
    return result


def _write_progress(paths: Paths, steps: Mapping[str, StepResult]) -> None:
    durable.write_json(paths.etc / PROGRESS, _steps_to_json(steps), mode=0o600)


def _read_progress(paths: Paths) -> dict[str, StepResult]:
    try:
        document = durable.read_json(paths.etc / PROGRESS)
        known = {} if document is None else dict(document)
        return {
            name: StepResult(StepState(raw["state"]), str(raw["detail"]), str(raw["output"]))
            for name, raw in known.items()
        }
    except (ValueError, KeyError, TypeError) as error:
        log("first_boot_progress_unreadable", error=error)
        return {}


def _steps_to_json(steps: Mapping[str, StepResult]) -> dict[str, Any]:
    return {
        name: {"state": each.state.value, "detail": each.detail, "output": each.output}
        for name, each in steps.items()
    }

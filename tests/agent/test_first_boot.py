"""First boot: order, descendants, once per OS disk, and a kill in the middle."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from upkeep.agent import first_boot, process
from upkeep.agent.first_boot import (
    FirstBootState,
    StepResult,
    StepState,
    plan_steps,
    reason_to_skip,
    summarize,
)
from upkeep.agent.seed import Script

GOOD, BAD, SKIPPED = (
    StepResult(StepState.SUCCEEDED),
    StepResult(StepState.FAILED, "exit 1"),
    StepResult(StepState.SKIPPED, "comes after a, which was failed"),
)


def lay_scripts(
    machine, *scripts: tuple[str, str, list[str]], user_data: str | None = None
) -> None:
    document = [
        {
            "name": name,
            "content": base64.b64encode(text.encode()).decode(),
            "provision_after": after,
        }
        for name, text, after in scripts
    ]
    (machine.paths.seed / "scripts.json").write_text(json.dumps(document))
    if user_data is not None:
        (machine.paths.seed / "user-data").write_text(user_data)


def note(machine, word: str, exit_code: int = 0) -> str:
    """A script that writes a word to a list and ends as told."""
    return f"#!/bin/sh\necho {word} >>{machine.root}/ran\necho said {word}\nexit {exit_code}\n"


def ran(machine) -> list[str]:
    path = machine.root / "ran"
    return path.read_text().split() if path.exists() else []


def replace_os_disk(machine) -> None:
    shutil.rmtree(machine.paths.etc)
    machine.paths.etc.mkdir()


@pytest.mark.parametrize(
    ("after", "steps", "skipped"),
    [
        ((), {}, False),
        (("a",), {"a": GOOD}, False),
        (("a",), {"a": BAD}, True),
        (("a",), {"a": SKIPPED}, True),
        (("a", "b"), {"a": GOOD, "b": BAD}, True),
        ((), {"a": BAD}, False),
        (("nobody",), {"a": GOOD}, True),
    ],
)
def test_only_true_descendants_of_a_failure_are_skipped(after, steps, skipped) -> None:
    assert bool(reason_to_skip(Script("x", b"", after), steps)) == skipped


def test_the_summary_names_what_failed_and_what_was_left_out() -> None:
    result = summarize({"a": BAD, "b": SKIPPED, "c": GOOD})
    assert result.state is FirstBootState.FAILED
    assert result.detail == "a failed: exit 1; b skipped: comes after a, which was failed"
    assert summarize({"a": GOOD}).state is FirstBootState.DONE


def test_custom_data_comes_first() -> None:
    names = [s.name for s in plan_steps(b"#!/bin/sh\n", [Script("a", b"")])]
    assert names == ["user-data", "a"]


def test_all_run_in_order_once_and_again_on_a_new_os_disk(machine) -> None:
    lay_scripts(
        machine,
        ("a", note(machine, "a"), []),
        ("b", note(machine, "b"), ["a"]),
        user_data=note(machine, "data"),
    )
    assert first_boot.run(machine.paths).state is FirstBootState.DONE
    assert first_boot.run(machine.paths).state is FirstBootState.DONE
    assert ran(machine) == ["data", "a", "b"]
    kept = json.loads((machine.paths.state / "first-boot.json").read_text())
    assert kept["state"] == "done"
    assert kept["steps"]["a"]["output"] == "said a\n"
    replace_os_disk(machine)
    first_boot.run(machine.paths)
    assert ran(machine) == ["data", "a", "b"] * 2


def test_a_failure_skips_its_descendants_and_nothing_else(machine) -> None:
    lay_scripts(
        machine,
        ("a", note(machine, "a", exit_code=3), []),
        ("b", note(machine, "b"), ["a"]),
        ("c", note(machine, "c"), ["b"]),
        ("d", note(machine, "d"), []),
        ("e", note(machine, "e"), ["d"]),
        user_data=note(machine, "data", exit_code=1),
    )
    result = first_boot.run(machine.paths)
    assert ran(machine) == ["data", "a", "d", "e"]
    assert result.state is FirstBootState.FAILED
    assert "a failed: exit 3: said a" in result.detail
    assert [name for name, s in result.steps.items() if s.state is StepState.SKIPPED] == ["b", "c"]
    assert first_boot.read_state(machine.paths).state is FirstBootState.FAILED


@pytest.mark.parametrize("text", ["#cloud-config\n", "", "echo no\n", " #!/bin/sh\n"])
def test_custom_data_that_is_no_program_is_not_run(machine, text: str) -> None:
    (machine.paths.seed / "user-data").write_text(text)
    result = first_boot.run(machine.paths)
    assert (result.state, result.steps) == (FirstBootState.DONE, {})


def test_without_a_seed_nothing_is_marked_so_that_a_late_one_is_not_missed(machine) -> None:
    machine.paths.seed.rmdir()
    assert first_boot.run(machine.paths).state is FirstBootState.DONE
    assert first_boot.read_state(machine.paths) is None


def test_an_image_may_ship_an_empty_marker(machine) -> None:
    (machine.paths.etc / "first-boot-done").touch()
    lay_scripts(machine, ("a", note(machine, "a"), []))
    assert first_boot.run(machine.paths).state is FirstBootState.DONE
    assert ran(machine) == []


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '[{"name": "a"}]',
        '[{"name": "a", "content": "%%%"}]',
        '[{"name": "user-data", "content": ""}]',
        '[{"name": "a", "content": ""}, {"name": "a", "content": ""}]',
    ],
)
def test_a_seed_that_cannot_be_read_is_a_failure_that_names_the_file(machine, text: str) -> None:
    (machine.paths.seed / "scripts.json").write_text(text)
    result = first_boot.run(machine.paths)
    assert result.state is FirstBootState.FAILED
    assert "scripts.json" in result.detail


def test_a_script_over_its_time_is_ended_with_all_it_started(machine, wait_until) -> None:
    pid_file = machine.root / "pid"
    lay_scripts(machine, ("a", f"#!/bin/sh\nsleep 300 & echo $! >{pid_file}\nwait\n", []))
    result = first_boot.run(machine.paths, script_timeout_s=0.3)
    assert "ended after 0.3 s" in result.detail
    pid = int(pid_file.read_text())

    def is_gone() -> bool:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    wait_until(is_gone)


def test_only_the_end_of_a_flood_is_kept(machine) -> None:
    lay_scripts(machine, ("a", "#!/bin/sh\nyes | head -c 3000000\necho last words\nexit 1\n", []))
    result = first_boot.run(machine.paths)
    assert "exit 1: last words" in result.detail
    assert len(result.steps["a"].output) == first_boot.OUTPUT_LENGTH_MAX


def test_a_daemon_that_a_script_leaves_behind_holds_nothing_up() -> None:
    finished = process.run(["/bin/sh", "-c", "sleep 5 & echo $!"], timeout_s=60)
    assert finished.succeeded
    os.kill(int(finished.output), signal.SIGTERM)


def test_a_program_that_closes_its_output_is_still_waited_for() -> None:
    finished = process.run(["/bin/sh", "-c", "exec >&- 2>&-; sleep 0.1; exit 7"], timeout_s=60)
    assert finished.exit_code == 7


def test_a_program_ended_by_a_signal_is_told_as_a_shell_tells_it() -> None:
    assert process.run(["/bin/sh", "-c", "kill -9 $$"], timeout_s=60).exit_code == 137


CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
from upkeep.agent import first_boot
from upkeep.agent.machine import Paths
root = Path(sys.argv[1])
first_boot.run(Paths(state=root / "state", seed=root / "seed", etc=root / "etc"))
"""


def test_a_kill_in_the_middle_runs_the_broken_script_again_and_no_other(
    machine, wait_until
) -> None:
    begun, go_on = machine.root / "begun", machine.root / "go-on"
    waits = (
        f"#!/bin/sh\necho b >>{machine.root}/ran\necho $$ >{begun}.new\nmv {begun}.new {begun}\n"
        f"while [ ! -e {go_on} ]; do sleep 0.02; done\n"
    )
    lay_scripts(
        machine,
        ("a", note(machine, "a"), []),
        ("failed", note(machine, "failed", exit_code=1), []),
        ("b", waits, ["a"]),
        ("c", note(machine, "c"), ["b"]),
    )
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(machine.root)], stderr=subprocess.DEVNULL
    )
    wait_until(begun.exists)
    child.kill()
    child.wait()
    os.killpg(int(begun.read_text()), signal.SIGKILL)  # As the service manager or a reboot does.
    assert first_boot.read_state(machine.paths) is None
    go_on.touch()
    result = first_boot.run(machine.paths)
    assert ran(machine) == ["a", "failed", "b", "b", "c"]
    assert result.steps["c"].state is StepState.SUCCEEDED
    assert result.state is FirstBootState.FAILED


def test_a_stop_in_the_middle_leaves_the_script_to_the_next_start(machine) -> None:
    lay_scripts(machine, ("a", "#!/bin/sh\nsleep 60\n", []))
    result = first_boot.run(machine.paths, is_stopping=lambda: True)
    assert result.state is FirstBootState.RUNNING
    assert first_boot.read_state(machine.paths) is None
    progress = json.loads((machine.paths.etc / "first-boot-progress.json").read_text())
    assert progress["a"]["state"] == "running"

"""The one file, as an ordinary process: on this Python, and on the floor where one is at hand."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import upkeep.agent
from upkeep.agent import VERSION
from upkeep.agent.pack import build_zipapp

PACKAGE = Path(upkeep.agent.__file__).parent
SOURCES = sorted(PACKAGE.glob("*.py"))
RESIDENT_MIB_MAX = 30  # DESIGN §8.


def works(python: str) -> bool:
    """A version manager's name for a Python that is not installed is there and only fails."""
    try:
        code = "import http.client, ssl"
        return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


def floor_pythons() -> list[str]:
    found = [shutil.which("python3.9") or "", *map(str, Path("/root/.pyenv/versions").glob("3.9*"))]
    names = [f"{path}/bin/python" if Path(path).is_dir() else path for path in found if path]
    return [name for name in names if works(name)][:1]


PYTHONS = [sys.executable, *floor_pythons()]


@pytest.fixture(scope="module")
def agent_pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_zipapp(tmp_path_factory.mktemp("pyz") / "agent.pyz")


@pytest.fixture
def run(agent_pyz, machine):
    def call(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-I", str(agent_pyz), *arguments, *places(machine)],
            capture_output=True,
            text=True,
            cwd="/",
            timeout=60,
        )

    return call


def places(machine) -> list[str]:
    paths = machine.paths
    return [f"--state-dir={paths.state}", f"--seed-dir={paths.seed}", f"--etc-dir={paths.etc}"]


def test_equal_sources_give_equal_bytes(tmp_path, agent_pyz) -> None:
    again = build_zipapp(tmp_path / "again.pyz")
    assert again.read_bytes() == agent_pyz.read_bytes()
    assert os.access(again, os.X_OK)
    assert os.listdir(tmp_path) == ["again.pyz"]


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((PACKAGE.parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.name)
def test_the_sources_are_python_3_9_and_import_the_standard_library_only(source: Path) -> None:
    tree = ast.parse(source.read_text(), feature_version=(3, 9))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"{source.name}:{node.lineno} leaves the package"
            names = [] if node.level else [node.module or ""]
        else:
            continue
        for name in names:
            assert name.split(".")[0] in sys.stdlib_module_names, f"{source.name}: {name}"
    future = "from __future__ import annotations"
    assert future in source.read_text(), f"{source.name} lacks {future}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.name)
def test_nothing_newer_than_3_9_is_evaluated_at_run_time(source: Path) -> None:
    """What parses on 3.9 and fails there: unions outside annotations, new dataclass options."""
    text = source.read_text()
    tree = ast.parse(text)
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        for note in [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if note is not None
        for inner in ast.walk(note)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.BitOr)
            and id(node) not in hidden
        ):
            sides = [node.left, node.right]
            assert not any(isinstance(s, ast.Constant) and s.value is None for s in sides)
        if isinstance(node, ast.keyword):
            assert node.arg not in ("kw_only", "slots"), f"{source.name}:{node.lineno}"
    assert not re.search(r"\bimport .*\b(StrEnum|UTC|Self|assert_never)\b", text)


@pytest.mark.parametrize("name", ["step.py", "health.py", "wire.py", "report.py"])
def test_the_pure_files_read_no_clock_draw_no_number_and_open_nothing(name: str) -> None:
    banned = {"time", "random", "uuid", "os", "pathlib", "logging", "socket", "subprocess",
              "threading"}  # fmt: skip
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.Import):
            assert not banned & {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.module not in banned
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("now", "utcnow", "today")


@pytest.mark.parametrize("python", PYTHONS)
def test_the_whole_life_as_an_ordinary_process(
    python, agent_pyz, server, machine, tmp_path
) -> None:
    """Enrols, polls, drains, restarts, ends on SIGTERM; and stays small."""
    boot_id, reboot = tmp_path / "boot_id", tmp_path / "reboot"
    boot_id.write_text("one\n")
    reboot.write_text(f"#!/bin/sh\necho two >{boot_id}.new && mv {boot_id}.new {boot_id}\n")
    reboot.chmod(0o755)
    machine.paths.drain.write_text("#!/bin/sh\necho moved\n")
    machine.paths.drain.chmod(0o755)
    machine.seed(server, token="t-1")
    server.poll = {"mode": "long", "seconds": 50}
    server.probe = {"protocol": "tcp", "port": server.port, "interval_ms": 100}
    child = subprocess.Popen(
        [python, "-I", str(agent_pyz), "run", *places(machine),
         f"--boot-id-file={boot_id}", f"--reboot-program={reboot}"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        server.wait_for_check_in(lambda b: b["health"]["state"] == "healthy")
        server.send("k/1", "drain", timeout_s=10)
        server.send("k/2", "restart")
        assert server.outcome("k/1")["detail"] == "exit 0: moved"
        assert server.outcome("k/2")["outcome"] == "succeeded"
        server.wait_for(lambda: server.polls_open)
        status = Path(f"/proc/{child.pid}/status").read_text()
        resident_mib = int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024
        assert resident_mib <= RESIDENT_MIB_MAX
    finally:
        child.send_signal(signal.SIGTERM)
        _, log = child.communicate(timeout=20)
    assert child.returncode == 0
    assert "loop_error" not in log
    assert log.splitlines()[-1] == "agent_stop"
    # Outcomes: no secret and no token in the log.
    assert server.secrets["m_web-0"] not in log
    assert "t-1" not in log.replace("test-1", "")


@pytest.mark.parametrize("python", PYTHONS)
def test_enrol_then_doctor_as_json_and_as_text(python, run, server, machine) -> None:
    machine.seed(server)
    server.tokens["t-1"] = "web-0"
    enrolled = run(python, "enrol", f"--server={server.url}", "--token=t-1", "--machine=web-0",
                   f"--ca-sha256={server.authority.ca_sha256}")  # fmt: skip
    assert (enrolled.returncode, enrolled.stderr) == (0, "")
    assert "enrolled: web-0 is m_web-0" in enrolled.stdout
    (machine.paths.etc / "first-boot-done").touch()
    doctor = run(python, "doctor", "--json")
    rows = json.loads(doctor.stdout)
    assert [row["RuleId"] for row in rows] == [
        "PythonVersion", "OpensslPresent", "StateDirectoryWritable", "DiskSpace",
        "IdentityPresent", "ServerReachable", "CaMatchesPin", "ClockInStep", "FirstBoot",
    ]  # fmt: skip
    assert {row["CheckResult"] for row in rows} == {"Passed"}, rows
    assert set(rows[0]) == {"RuleId", "RuleGroupId", "CheckResult", "CheckResultMessage"}
    assert doctor.returncode == 0
    server.stop()
    doctor = run(python, "doctor")
    assert doctor.returncode == 1
    assert re.search(r"^ServerReachable +Failed +.*check the address", doctor.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("token", "pin", "words"),
    [
        ("old", None, "Make a new one with `upkeep machine add web-0`"),
        ("good", "0" * 64, "is not your server"),
        ("elsewhere", None, "upkeep machine add web-0"),
    ],
)
def test_a_refused_enrolment_is_one_sentence_and_exit_1(
    run, server, machine, token, pin, words
) -> None:
    machine.seed(server)
    server.tokens.update({"old": "expired", "good": "web-0", "elsewhere": "web-9"})
    pin = pin or server.authority.ca_sha256
    refused = run(sys.executable, "enrol", f"--server={server.url}", f"--token={token}",
                  "--machine=web-0", f"--ca-sha256={pin}")  # fmt: skip
    assert refused.returncode == 1
    assert words in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_an_unreachable_server_says_that_the_token_is_still_good(run, server, machine) -> None:
    machine.seed(server)
    server.stop()
    away = run(sys.executable, "enrol", f"--server={server.url}", "--token=t",
               f"--ca-sha256={server.authority.ca_sha256}")  # fmt: skip
    assert away.returncode == 1
    assert "the token is not used up" in away.stderr


def test_install_places_the_agent_and_its_unit_and_may_be_repeated(
    run, agent_pyz, server, make_machine, machine, tmp_path
) -> None:
    machine.seed(server)
    server.tokens["t-1"] = "web-0"
    arguments = [
        f"--server={server.url}",
        "--token=t-1",
        "--machine=web-0",
        f"--ca-sha256={server.authority.ca_sha256}",
        f"--prefix={tmp_path}/root",
    ]
    first = run(sys.executable, "install", *arguments)
    assert first.returncode == 0, first.stderr
    placed = tmp_path / "root/usr/lib/upkeep/agent.pyz"
    assert placed.read_bytes() == agent_pyz.read_bytes()
    assert os.access(placed, os.X_OK)
    unit = (tmp_path / "root/etc/systemd/system/upkeep-agent.service").read_text()
    assert "ExecStart=/usr/bin/env python3 /usr/lib/upkeep/agent.pyz run" in unit
    server.used["t-1"] = "another uuid"
    second = run(sys.executable, "install", *arguments)
    assert second.returncode == 0, second.stderr
    assert "enrolled before: web-0 is m_web-0" in second.stdout


def test_two_agents_never_share_a_state_directory(run, agent_pyz, server, machine) -> None:
    machine.seed(server, token="t-1")
    child = subprocess.Popen(
        [sys.executable, "-I", str(agent_pyz), "run", *places(machine)], stderr=subprocess.DEVNULL
    )
    try:
        server.wait_for_check_in(lambda b: True)
        second = run(sys.executable, "run")
        assert second.returncode == 1
        assert "another agent runs with it" in second.stderr
    finally:
        child.terminate()
        child.wait(20)


def test_a_python_that_is_too_old_or_too_small_is_told_so(agent_pyz) -> None:
    import zipfile

    main = zipfile.ZipFile(agent_pyz).read("__main__.py").decode()
    old = main.replace("sys.version_info", "(3, 6)")
    told = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True)
    assert "needs Python 3.9 or newer" in told.stderr
    small = f"import sys; sys.modules['upkeep'] = None\n{main}"
    told = subprocess.run([sys.executable, "-c", small], capture_output=True, text=True)
    assert "install the package python3" in told.stderr

"""The command line against the real server, as a newcomer would use it.

The server is a process of its own (`real_server.py`): real API, engine, database, TLS and probes;
only the hypervisor is files.  All tests share it and each uses groups of its own, but for the first
which tells the main story on `web`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cli.conftest import run
from tests.real_prometheus import running_prometheus

from upkeep.api.certificates import CA_FILE as SERVER_CA_FILE
from upkeep.cli import connection
from upkeep.cli.exit_codes import ExitCode
from upkeep.server.main import ADDRESS_FILE
from upkeep.server.settings import ServerSettings
from upkeep.store.tokens import ADMIN_TOKEN_FILE

READY_S = 30.0
SETTLED_S = 20.0
# An alarm is asked every 15 s.
ASKED_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RealServer:
    state: Path
    url: str
    application_port: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    state = tmp_path_factory.mktemp("state")
    port, application_port = free_port(), free_port()
    script = Path(__file__).with_name("real_server.py")
    with (state / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(script), str(state), str(port), str(application_port)],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_for(lambda: _listens(port) or process.poll() is not None, READY_S)
        assert process.poll() is None, (state / "log").read_text()
        yield RealServer(
            state=state, url=f"https://127.0.0.1:{port}", application_port=application_port
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


@pytest.fixture(autouse=True)
def on_the_servers_machine(real: RealServer, monkeypatch: pytest.MonkeyPatch) -> RealServer:
    """Nobody has logged in: what the server left is enough."""
    monkeypatch.setenv("UPKEEP_STATE_DIR", str(real.state))
    monkeypatch.delenv("UPKEEP_SERVER", raising=False)
    return real


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)


def ok(*arguments: str, stdin: str | None = None) -> str:
    """stdout of a command that works."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == ExitCode.OK, f"{arguments}: {result.output}"
    return result.stdout


def document(*arguments: str) -> dict:  # type: ignore[type-arg]
    answer = json.loads(ok(*arguments, "--json"))
    assert isinstance(answer, dict)
    return answer


def publish(tmp_path: Path, image: str, version: str) -> None:
    blob = tmp_path / f"{image}-{version}.tar"
    blob.write_bytes(f"{image} {version}".encode())
    ok("image", "publish", image, version, str(blob))


def ended_rollout(group: str, target: str) -> str:
    """The id of the group's ended rollout to this version, once there is one."""
    found: list[str] = []

    def is_there() -> bool:
        items = document("rollout", "history", group)["items"]
        found[:] = [each["id"] for each in items if each["target"] == target and each["ended_at"]]
        return bool(found)

    wait_for(is_there, SETTLED_S)
    return found[0]


def test_the_files_that_a_server_leaves_are_where_the_client_looks() -> None:
    assert connection.ADMIN_TOKEN_FILE == ADMIN_TOKEN_FILE
    assert f"ca/{SERVER_CA_FILE}" == connection.CA_FILE
    assert connection.ADDRESS_FILE == ADDRESS_FILE


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("0.0.0.0:8443", "https://127.0.0.1:8443"),
        ("10.0.0.5:443", "https://10.0.0.5:443"),
        ("[::]:9443", "https://[::1]:9443"),
        ("[fd00::7]:9443", "https://[fd00::7]:9443"),
    ],
)
def test_root_on_the_servers_own_machine_finds_it_where_it_listens(
    listen: str, address: str
) -> None:
    assert ServerSettings(state_dir="/nowhere", listen=(listen,)).local_address == address


def test_machines_are_told_an_address_of_ipv6_in_brackets() -> None:
    settings = ServerSettings(state_dir="/nowhere", listen=("[fd00::7]:9443",))
    assert settings.advertised == "https://[fd00::7]:9443"


def test_the_main_story(real: RealServer, tmp_path: Path) -> None:
    publish(tmp_path, "web", "1.0.0")
    said = ok(
        "group", "create", "web", "--image", "web", "--capacity", "5",
        "--probe", f"http://:{real.application_port}/", "--probe-interval", "200ms",
        "--max-batch-percent", "20", "--health-wait", "2s", "--no-auto-upgrade",
    )  # fmt: skip
    assert "Created group web with 5 machines" in said
    wait_for(lambda: document("group", "show", "web")["machines"]["healthy"] == 5, SETTLED_S)
    assert "machines" in ok("group", "show", "web")
    table = ok("machine", "list", "--group", "web").splitlines()
    assert len(table) == 6
    assert all(" 1.0.0 " in line and " healthy " in line for line in table[1:])

    publish(tmp_path, "web", "1.0.1")
    wait_for(lambda: bool(document("hold", "list", "--group", "web")["items"]), SETTLED_S)
    assert "AUTO_UPGRADE_OFF" in ok("hold", "list", "--group", "web")
    assert "web-0 is present and healthy, on image 1.0.0; held:" in ok("explain", "web-0")
    ok("machine", "protect", "web-4")
    told = ok("rollout", "start", "web", "--version", "1.0.1", "--follow", "--timeout", "30s")
    assert "web to 1.0.1, running" in told
    assert "web to 1.0.1, completed" in told
    assert "web-0 done (batch 1)" in told
    versions = {each["name"]: each["image"] for each in document("machine", "list")["items"]}
    assert versions == {f"web-{number}": "1.0.1" for number in range(4)} | {"web-4": "1.0.0"}
    rolled = ended_rollout("web", "1.0.1")
    assert rolled in ok("rollout", "list", "--group", "web", "--state", "completed")
    shown = document("rollout", "show", rolled)
    assert sum(shown["counters"].values()) == len(shown["tasks"]) == 4

    ok("machine", "unprotect", "web-4")
    ok("group", "set", "web", "--auto-upgrade", "--bake-time", "1s")
    wait_for(lambda: document("group", "show", "web")["versions"] == {"1.0.1": 5}, SETTLED_S)
    wait_for(lambda: document("group", "show", "web")["rollout"] is None, SETTLED_S)
    assert "nothing is to be done" in ok("explain", "web-4")


def test_a_bad_version_halts_by_itself_and_ends_with_8(real: RealServer, tmp_path: Path) -> None:
    publish(tmp_path, "web", "1.0.66")
    wait_for(lambda: document("group", "show", "web")["rollout"] is not None, SETTLED_S)
    running = document("group", "show", "web")["rollout"]
    result = run("rollout", "show", running, "--follow", "--timeout", "60s")
    assert result.exit_code == ExitCode.ROLLOUT_ENDED_BADLY, result.output
    assert "web to 1.0.66, faulted" in result.stdout
    assert "Rolled back and well again: 1" in result.stdout
    again = run("rollout", "show", running, "--follow", "--json")
    assert again.exit_code == ExitCode.ROLLOUT_ENDED_BADLY
    assert json.loads(again.stdout)["state"] == "faulted"
    assert "web to 1.0.66, faulted" in ok("rollout", "show", running)
    assert document("group", "show", "web")["versions"] == {"1.0.1": 5}
    assert "VERSION_BAD" in ok("hold", "list", "--group", "web")
    ok("image", "exclude", "web", "1.0.66")
    assert " yes " in ok("image", "show", "web")
    assert "web" in ok("image", "list")


def test_one_machine_is_restarted_and_watched() -> None:
    before = ok("machine", "show", "web-1")
    assert "address" in before
    result = run("machine", "restart", "web-1", "--follow", "--timeout", "30s")
    assert result.exit_code == ExitCode.OK, result.output
    assert "completed" in result.stdout
    assert "restart" in ok("group", "story", "web")


def test_budgets_blackouts_tokens_clock_and_audit(real: RealServer, bare_machine: Path) -> None:
    ok("budget", "create", "shop", "--max-down", "2", "--group", "web", "--rate", "5",
       "--rate-period", "1h")  # fmt: skip
    assert "at most 2 down" in ok("budget", "show", "shop")
    ok("budget", "set", "shop", "--min-available", "60", "--percent")
    shown = ok("budget", "list")
    assert "at least 60% up" in shown
    assert "5 per 1h" in shown
    ok("budget", "delete", "shop")

    ok("blackout", "create", "holidays", "--from", "+1h", "--to", "+2h", "--group", "web")
    listed = document("blackout", "list")["items"]
    assert [each["name"] for each in listed] == ["holidays"]
    assert "holidays" in ok("blackout", "list")
    ok("blackout", "delete", listed[0]["id"])
    assert document("blackout", "list")["items"] == []

    ok("schedule", "create", "nights", "--starts", "2099-12-24 22:00", "--length", "5h",
       "--every", "Day", "--zone", "Europe/Berlin")  # fmt: skip
    assert "opens 2099-12-24 21:00:00Z" in ok("schedule", "assign", "nights", "web")
    assert ok("schedule", "show", "nights").startswith(
        "nights: Day, 5h from 2099-12-24 22:00 Europe/Berlin; for web\n"
    )
    assert "2099-12-28" in ok("schedule", "show", "nights")
    assert "web" in ok("schedule", "list")
    ok("schedule", "unassign", "nights", "web")
    assert "No window is coming" in ok("schedule", "set", "nights", "--every", "")
    ok("schedule", "delete", "nights")
    assert document("schedule", "list")["items"] == []

    assert "agrees" in ok("clock", "show")
    assert "Accepted." in ok("clock", "accept")
    secret = ok("token", "create", "reader-of-the-test", "--expires-in", "1h").strip()
    entry = next(t for t in document("token", "list")["items"] if t["name"].startswith("reader"))
    assert secret.startswith(entry["id"])
    audit = ok("audit", "list")
    assert "/v1/tokens" in audit
    assert secret not in audit
    ok("token", "revoke", entry["id"])


def test_login_elsewhere_with_a_token_of_less_power(
    real: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = ok("ca", "show").strip()
    secret = ok("token", "create", "reader-elsewhere").strip()
    monkeypatch.setenv("UPKEEP_STATE_DIR", "/nowhere")
    ok("login", "--server", real.url, "--ca-sha256", pin, stdin=secret + "\n")
    assert "web" in ok("group", "list")
    refused = run("group", "pause", "web")
    assert refused.exit_code == ExitCode.NOT_AUTHORISED
    assert "operator" in refused.stderr
    assert document("group", "show", "web")["paused"] is False


def test_a_machine_that_exists_already_gets_its_line() -> None:
    ok("group", "create", "metal", "--platform", "agent_only")
    line = ok(
        "machine",
        "add",
        "iron",
        "--group",
        "metal",
    ).strip()
    assert "--machine iron" in line
    again = ok("machine", "add", "iron").strip()
    assert "--machine iron" in again
    assert again != line
    wrong = run("machine", "add", "iron", "--group", "web")
    assert wrong.exit_code == ExitCode.INVALID


@pytest.mark.parametrize("verb", ["stop", "start"])
def test_a_machine_that_only_runs_the_agent_is_not_ours_to_switch(verb: str) -> None:
    run("group", "create", "metal", "--platform", "agent_only")
    ok("machine", "add", "iron", "--group", "metal")
    refused = run("machine", verb, "iron")
    assert refused.exit_code == ExitCode.REFUSED
    assert f"iron only runs the agent: upkeep does not hold its power; {verb} it" in refused.stderr


def test_without_an_agent_nobody_can_restart_such_a_machine() -> None:
    run("group", "create", "metal", "--platform", "agent_only")
    ok("machine", "add", "iron", "--group", "metal")
    refused = run("machine", "restart", "iron")
    assert refused.exit_code == ExitCode.REFUSED
    assert "No agent has enrolled on iron: run there the line that" in refused.stderr


def test_a_machine_that_only_runs_the_agent_can_be_forgotten() -> None:
    run("group", "create", "metal", "--platform", "agent_only")
    ok("machine", "add", "old-iron", "--group", "metal")
    ok("machine", "delete", "old-iron", "--yes")
    wait_for(lambda: run("machine", "show", "old-iron").exit_code == ExitCode.NOT_FOUND, SETTLED_S)
    ok("group", "delete", "metal", "--yes")
    wait_for(lambda: run("group", "show", "metal").exit_code == ExitCode.NOT_FOUND, SETTLED_S)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("group", "show", "nope"), ExitCode.NOT_FOUND),
        (("explain", "nope"), ExitCode.NOT_FOUND),
        (("rollout", "show", "ro_0", "--follow"), ExitCode.NOT_FOUND),
        (("budget", "show", "nope"), ExitCode.NOT_FOUND),
        (("image", "show", "nope"), ExitCode.NOT_FOUND),
        (("group", "create", "web"), ExitCode.INVALID),
        (("group", "create", "web", "--no-auto-upgrade"), ExitCode.REFUSED),
        (("group", "create", "x", "--platform", "nope"), ExitCode.INVALID),
        (("group", "create", "x", "--kind", "nope"), ExitCode.INVALID),
        (("group", "set", "web", "--bake-time", "300d"), ExitCode.INVALID),
        (("machine", "list", "--state", "nope"), ExitCode.INVALID),
        (("rollout", "start", "web", "--version", "9.9.9"), ExitCode.REFUSED),
        (("token", "create", "x", "--role", "king"), ExitCode.INVALID),
        (("machine", "add", "x"), ExitCode.NOT_FOUND),
    ],
)
def test_the_servers_refusals_read_as_two_sentences(
    arguments: tuple[str, ...], code: ExitCode
) -> None:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 2, result.stderr
    assert lines[0].startswith("Error: ")
    assert all(line.endswith((".", "?")) for line in lines), result.stderr
    assert "/v1/" not in result.stderr


def test_steering(real: RealServer) -> None:
    assert "Paused group web" in ok("group", "pause", "web")
    assert document("group", "show", "web")["paused"] is True
    ok("group", "resume", "web")
    ended = document("rollout", "history", "web")["items"][-1]["id"]
    assert run("rollout", "pause", ended).exit_code == ExitCode.REFUSED
    assert "deleting" in ok("group", "delete", "web", "--yes").lower()
    wait_for(lambda: run("group", "show", "web").exit_code == ExitCode.NOT_FOUND, SETTLED_S)


def test_the_installed_command_itself(real: RealServer) -> None:
    result = subprocess.run(
        [str(Path(sys.executable).with_name("upkeep")), "group", "list", "--json"],
        env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "items" in json.loads(result.stdout)


def test_an_alarm_is_asked_by_the_server_itself(tmp_path: Path) -> None:
    ok("group", "create", "watched", "--kind", "loose", "--platform", "agent_only")
    with running_prometheus(tmp_path) as url:
        given = ("--group", "watched", "--url", url)
        later = f"time() > bool {time.time() + 5:.0f}"
        told = ok("alarm", "create", "errors", *given, "--query", later)
        assert told.startswith("Alarm errors is quiet")

        def state() -> str:
            return str(document("alarm", "list")["items"][0]["state"])

        wait_for(lambda: state() == "firing", ASKED_S)
        assert "alarm errors is firing: it is 1" in ok("group", "story", "watched")
        refused = run("alarm", "create", "more", *given, "--query", "sum(")
        assert refused.exit_code == ExitCode.INVALID, refused.output
        assert "The query is refused" in refused.output
    # It answers no more: after a minute nobody knows.
    wait_for(lambda: state() == "unknown", ASKED_S + 60)
    gone = document("alarm", "list")["items"][0]["id"]
    assert ok("alarm", "delete", gone) == f"Deleted alarm {gone}.\n"

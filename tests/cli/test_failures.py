"""Every way in which a command can fail: its exit code, what it says, what it does not do."""

import re
from pathlib import Path

import pytest
from tests.cli.conftest import Asked, Said, ScriptedServer, problem, run

from upkeep.cli import client
from upkeep.cli.exit_codes import MEANINGS, ExitCode


def two_sentences(stderr: str) -> tuple[str, str]:
    """What happened and what to do, each one line."""
    lines = stderr.strip().splitlines()
    assert len(lines) == 2, stderr
    assert lines[0].startswith("Error: ")
    assert all(line.rstrip().endswith((".", "`")) for line in lines), stderr
    return lines[0], lines[1]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ExitCode.INVALID),
        (401, ExitCode.NOT_AUTHORISED),
        (403, ExitCode.NOT_AUTHORISED),
        (404, ExitCode.NOT_FOUND),
        (409, ExitCode.REFUSED),
        (413, ExitCode.INVALID),
        (422, ExitCode.INVALID),
        (429, ExitCode.UNREACHABLE),
        (500, ExitCode.FAILED),
        (503, ExitCode.UNREACHABLE),
        (507, ExitCode.FAILED),
    ],
)
def test_each_kind_of_refusal_has_its_exit_code_and_the_servers_own_words(
    logged_in: ScriptedServer, status: int, code: ExitCode
) -> None:
    logged_in.answers["GET", "/v1/groups/web"] = problem(status, "It is so", "do this about it")
    result = run("group", "show", "web")
    assert result.exit_code == code
    assert two_sentences(result.stderr) == ("Error: It is so.", "Do this about it.")
    assert result.stdout == ""


def test_every_exit_code_is_explained() -> None:
    assert set(MEANINGS) == set(ExitCode)


def test_without_a_login_it_says_how_to_log_in() -> None:
    result = run("group", "list")
    assert result.exit_code == ExitCode.NOT_AUTHORISED
    assert "upkeep login" in two_sentences(result.stderr)[1]


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPKEEP_SERVER", "https://127.0.0.1:1")
    monkeypatch.setenv("UPKEEP_TOKEN", "t")
    result = run("group", "list")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "Cannot reach https://127.0.0.1:1" in two_sentences(result.stderr)[0]


def test_a_server_with_another_ca_gets_nothing(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPKEEP_SERVER", scripted.url)
    monkeypatch.setenv("UPKEEP_TOKEN", "t")
    result = run("group", "list")  # With the system's CAs, which did not sign this server.
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "certificate" in two_sentences(result.stderr)[0]
    assert scripted.asked == []


def test_a_token_is_never_sent_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPKEEP_SERVER", "http://127.0.0.1:1")
    monkeypatch.setenv("UPKEEP_TOKEN", "t")
    result = run("group", "list")
    assert result.exit_code == ExitCode.USAGE
    assert "in the clear" in two_sentences(result.stderr)[1]


def test_a_server_that_takes_too_long(
    logged_in: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    def slow(asked: Asked) -> Said:
        time.sleep(0.6)
        return Said(document={})

    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.2)
    logged_in.answers["POST", "/v1/groups/web/pause"] = slow
    result = run("group", "pause", "web")
    assert result.exit_code == ExitCode.TIMED_OUT
    assert "Look whether it happened" in two_sentences(result.stderr)[1]
    assert len(logged_in.asked) == 1


def test_a_read_is_tried_again_on_a_broken_connection_and_a_write_is_not(
    logged_in: ScriptedServer,
) -> None:
    def break_once(asked: Asked) -> Said:
        is_first = sum(each.path == asked.path for each in logged_in.asked) == 1
        return Said(hang_up=True) if is_first else Said(document={"name": "web"})

    logged_in.answers["GET", "/v1/groups/web"] = break_once
    assert run("group", "show", "web").exit_code == ExitCode.OK
    logged_in.answers["POST", "/v1/groups/web/pause"] = Said(hang_up=True)
    assert run("group", "pause", "web").exit_code == ExitCode.UNREACHABLE
    logged_in.only("POST", "/v1/groups/web/pause")


@pytest.mark.parametrize("raw", [b"<html>proxy</html>", b"[1]", b'"x"'])
@pytest.mark.parametrize("status", [200, 502])
def test_an_answer_that_is_not_the_api_is_said_to_be_that(
    logged_in: ScriptedServer, raw: bytes, status: int
) -> None:
    logged_in.answers["GET", "/v1/groups/web"] = Said(status=status, raw=raw)
    result = run("group", "show", "web")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "proxy" in two_sentences(result.stderr)[1]


def test_what_a_server_says_cannot_steer_the_terminal(logged_in: ScriptedServer) -> None:
    logged_in.answers["GET", "/v1/groups/web"] = problem(404, "\x1b[2Jgone", "x\x07y\x9bz")
    result = run("group", "show", "web")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", result.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ["group", "create"],
        ["group", "create", "web", "--bake-time", "5"],
        ["group", "create", "web", "--bake-time", "500ms"],
        ["group", "create", "web", "--capacity", "many"],
        ["group", "create", "web", "--max-batch-percent", "4"],
        ["group", "create", "web", "--probe", "http://10.0.0.1:8080/"],
        ["group", "create", "web", "--probe", "tcp://"],
        ["group", "create", "web", "--script", "a"],
        ["group", "set", "web"],
        ["group", "nonsense"],
        ["group", "delete", "web"],
        ["blackout", "create", "x", "--from", "+2h", "--to", "+1h"],
        ["blackout", "create", "x", "--from", "2026-12-24T18:00", "--to", "+1h"],
        ["budget", "create", "b"],
        ["budget", "create", "b", "--max-down", "1", "--min-available", "1"],
        ["budget", "create", "b", "--rate", "1"],
        ["image", "build", "web", "1.0.0", "-o", "/nowhere/x.tar"],
        ["image", "publish", "web", "1.0.0", "/tmp/x.iso"],
        ["simulate"],
        ["simulate", "--seeds", "a..b"],
    ],
)
def test_a_wrong_command_line_is_2_and_asks_the_server_nothing(
    logged_in: ScriptedServer, arguments: list[str]
) -> None:
    result = run(*arguments)
    assert result.exit_code == ExitCode.USAGE
    assert "Error: " in result.stderr
    assert logged_in.asked == []


def test_a_file_that_is_not_there(logged_in: ScriptedServer, tmp_path: Path) -> None:
    missing = tmp_path / "web.tar"
    for arguments in (
        ["image", "publish", "web", "1.0.0", str(missing)],
        ["group", "create", "web", "--user-data", str(missing)],
    ):
        result = run(*arguments)
        assert result.exit_code == ExitCode.FAILED
        assert "No such file" in two_sentences(result.stderr)[0]
    assert logged_in.asked == []


def test_what_the_server_says_of_its_api_is_told_in_commands(logged_in: ScriptedServer) -> None:
    logged_in.answers["GET", "/v1/groups/web"] = problem(
        404, "There is no such thing", "no 'web'; list them with GET /v1/groups"
    )
    assert run("group", "show", "web").stderr.endswith("list them with `upkeep group list`.\n")
    logged_in.answers["GET", "/v1/groups/web"] = problem(404, "No", "see GET /v1/images/web")
    assert run("group", "show", "web").stderr.endswith("See `upkeep image show web`.\n")

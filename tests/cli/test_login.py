"""Logging in: the pin, the token, the file, and which server a command speaks to."""

import stat
from pathlib import Path

import pytest
from tests.cli.conftest import TOKEN, Said, ScriptedServer, problem, run

from upkeep.cli.connection import Connection, config_path, find_connection, save_login
from upkeep.cli.exit_codes import ExitCode

CA_PATH = "/agent/v1/ca"


@pytest.fixture
def server(scripted: ScriptedServer) -> ScriptedServer:
    """As a server is before anybody has logged in to it."""
    scripted.answers["GET", CA_PATH] = Said(raw=scripted.certificates.ca_pem.encode())
    scripted.on("GET", "/v1/groups", {"items": [], "next": None})
    return scripted


def test_a_login_is_remembered_for_this_user_alone(server: ScriptedServer) -> None:
    result = run(
        "login", "--server", server.url + "/", "--ca-sha256", server.certificates.ca_sha256,
        stdin=f"{TOKEN}\n",
    )  # fmt: skip
    assert result.exit_code == ExitCode.OK, result.output
    path = config_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert find_connection() == Connection(
        server=server.url, token=TOKEN, ca_pem=server.certificates.ca_pem
    )
    result = run("group", "list", "--json")
    assert result.exit_code == ExitCode.OK
    assert server.asked[-1].headers["authorization"] == f"Bearer {TOKEN}"


def test_the_pin_may_be_written_as_openssl_writes_it(server: ScriptedServer) -> None:
    digest = server.certificates.ca_sha256.upper()
    pairs = ":".join(digest[at : at + 2] for at in range(0, 64, 2))
    result = run("login", "--server", server.url, "--ca-sha256", pairs, "--token", TOKEN)
    assert result.exit_code == ExitCode.OK, result.output


def test_another_ca_than_the_pinned_one_gets_no_token_and_nothing_is_written(
    server: ScriptedServer,
) -> None:
    result = run("login", "--server", server.url, "--ca-sha256", "0" * 64, "--token", TOKEN)
    assert result.exit_code == ExitCode.UNREACHABLE
    assert server.certificates.ca_sha256 in result.stderr
    assert all(TOKEN not in asked.headers.get("authorization", "") for asked in server.asked)
    assert not config_path().exists()


def test_a_token_that_does_not_work_is_not_remembered(server: ScriptedServer) -> None:
    server.answers["GET", "/v1/groups"] = problem(401, "There is no such token", "Copy it whole.")
    pin = server.certificates.ca_sha256
    result = run("login", "--server", server.url, "--ca-sha256", pin, "--token", "upk_0.bad")
    assert result.exit_code == ExitCode.NOT_AUTHORISED
    assert not config_path().exists()


@pytest.mark.parametrize(
    ("address", "pin", "code"),
    [
        ("https://127.0.0.1:1", "0" * 64, ExitCode.UNREACHABLE),
        ("http://127.0.0.1:1", "0" * 64, ExitCode.USAGE),
        ("upkeep.example", "0" * 64, ExitCode.USAGE),
        ("https://127.0.0.1:1", "12ab", ExitCode.USAGE),
    ],
)
def test_an_address_or_a_pin_that_cannot_be(address: str, pin: str, code: ExitCode) -> None:
    result = run("login", "--server", address, "--ca-sha256", pin, "--token", TOKEN)
    assert result.exit_code == code, result.output


def test_without_a_token_on_standard_input_it_says_so(server: ScriptedServer) -> None:
    pin = server.certificates.ca_sha256
    result = run("login", "--server", server.url, "--ca-sha256", pin, stdin="")
    assert result.exit_code == ExitCode.USAGE


def test_a_login_again_replaces_the_first_and_keeps_the_mode(server: ScriptedServer) -> None:
    path = config_path()
    path.parent.mkdir(parents=True)
    path.write_text('server = "https://old"\n')
    path.chmod(0o644)
    pin = server.certificates.ca_sha256
    assert run(
        "login", "--server", server.url, "--ca-sha256", pin, "--token", TOKEN
    ).exit_code == ExitCode.OK  # fmt: skip
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert find_connection().server == server.url


def test_whatever_is_in_a_token_is_read_back_as_it_was(tmp_path: Path) -> None:
    connection = Connection(server="https://a", token='a"b\\c\nd', ca_pem="x\ny\n")
    save_login(connection, config_path())
    assert find_connection() == connection


def test_a_token_is_not_sent_to_another_server_than_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_login(Connection(server="https://mine", token="secret", ca_pem="pem"), config_path())
    monkeypatch.setenv("UPKEEP_SERVER", "https://other")
    result = run("group", "list")
    assert result.exit_code == ExitCode.NOT_AUTHORISED
    assert "No token is known for https://other" in result.stderr
    monkeypatch.setenv("UPKEEP_TOKEN", "theirs")
    assert find_connection() == Connection(server="https://other", token="theirs", ca_pem="")


def test_the_environment_wins_one_by_one(
    monkeypatch: pytest.MonkeyPatch, scripted: ScriptedServer
) -> None:
    save_login(Connection(server="https://mine", token="secret", ca_pem="pem"), config_path())
    monkeypatch.setenv("UPKEEP_TOKEN", "other")
    assert find_connection() == Connection(server="https://mine", token="other", ca_pem="pem")
    monkeypatch.setenv("UPKEEP_CA", str(scripted.ca_file))
    assert find_connection().ca_pem == scripted.certificates.ca_pem


def test_a_login_that_cannot_be_read_says_what_to_do() -> None:
    path = config_path()
    path.parent.mkdir(parents=True)
    path.write_text("not toml")
    result = run("group", "list")
    assert result.exit_code == ExitCode.FAILED
    assert f"Error: The login in {path} cannot be read" in result.stderr


def test_ca_show_prints_what_others_pin(logged_in: ScriptedServer) -> None:
    result = run("ca", "show")
    assert result.stdout == f"{logged_in.certificates.ca_sha256}\n"
    assert f"upkeep login --server {logged_in.url}" in result.stderr

"""The own CA, and the agent's own code against a server that uses it."""

import hashlib
import os
import ssl
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from upkeep.agent import identity, transport
from upkeep.agent.enrol import EnrolError, enrol
from upkeep.agent.machine import Paths
from upkeep.agent.seed import Enrolment
from upkeep.agent.wire import parse_reply
from upkeep.api.certificates import CertificateError, open_certificates
from upkeep.api.install import INSTALL_SCRIPT, pasted_line
from upkeep.server.main import serve
from upkeep.server.settings import ServerSettings, SettingsError

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def test_the_ca_is_made_once_and_kept(tmp_path: Path) -> None:
    first = open_certificates(tmp_path, ["localhost"], now=NOW)
    again = open_certificates(tmp_path, ["localhost"], now=NOW)
    assert first == again
    der = ssl.PEM_cert_to_DER_cert(first.ca_pem)
    assert first.ca_sha256 == hashlib.sha256(der).hexdigest()


def test_every_file_is_private(tmp_path: Path) -> None:
    open_certificates(tmp_path / "ca", ["localhost"], now=NOW)
    modes = {f.name: f.stat().st_mode & 0o777 for f in (tmp_path / "ca").iterdir()}
    assert set(modes.values()) == {0o600}
    assert set(modes) == {"ca.pem", "ca.key", "server.pem", "server.key"}


@pytest.mark.parametrize(
    ("names", "later", "renewed"),
    [
        (["localhost", "10.0.0.1"], timedelta(0), False),
        (["10.0.0.1", "LOCALHOST"], timedelta(0), False),
        (["localhost", "10.0.0.2"], timedelta(0), True),
        (["localhost", "10.0.0.1"], timedelta(days=360), False),
        (["localhost", "10.0.0.1"], timedelta(days=370), True),
    ],
)
def test_the_servers_certificate_is_renewed_when_it_must(
    tmp_path: Path, names: list[str], later: timedelta, renewed: bool
) -> None:
    first = open_certificates(tmp_path, ["localhost", "10.0.0.1"], now=NOW)
    before = first.chain.read_bytes()
    after = open_certificates(tmp_path, names, now=NOW + later)
    assert after.ca_sha256 == first.ca_sha256
    assert (after.chain.read_bytes() != before) is renewed


def test_a_certificate_of_another_ca_or_without_its_key_is_made_anew(tmp_path: Path) -> None:
    """As after a restore of half of the files; all CAs of ours have one name."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    before = open_certificates(mine, ["localhost"], now=NOW).chain.read_bytes()
    open_certificates(other, ["localhost"], now=NOW)
    for name, content in (
        ("server.key", (other / "server.key").read_bytes()),
        ("server.pem", (other / "server.pem").read_bytes()),
        ("server.pem", b"not a certificate"),
        ("server.key", b""),
    ):
        (mine / name).write_bytes(content)
        made = open_certificates(mine, ["localhost"], now=NOW)
        assert made.chain.read_bytes() != before
        made.server_context()  # Loads only a key and a certificate that belong together.
        verified = subprocess.run(
            ["openssl", "verify", "-attime", str(int(NOW.timestamp())), "-CAfile",
             mine / "ca.pem", made.chain],
            capture_output=True,
        )  # fmt: skip
        assert verified.returncode == 0, (name, verified.stderr)
        before = made.chain.read_bytes()


@pytest.mark.parametrize("damage", ["ca.key is gone", "ca.key", "ca.pem", "both are no PEM"])
def test_a_damaged_ca_is_never_replaced_by_itself(tmp_path: Path, damage: str) -> None:
    """Every machine pins it: a new one would cut all of them off without a word."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    open_certificates(mine, ["localhost"], now=NOW)
    open_certificates(other, ["localhost"], now=NOW)
    if damage == "ca.key is gone":
        (mine / "ca.key").unlink()
    elif damage == "both are no PEM":
        (mine / "ca.key").write_bytes(b"x")
        (mine / "ca.pem").write_bytes(b"x")
    else:
        (mine / damage).write_bytes((other / damage).read_bytes())
    files = {file.name: file.read_bytes() for file in mine.iterdir()}
    with pytest.raises(CertificateError, match=r"from a backup.*enrol every machine anew"):
        open_certificates(mine, ["localhost"], now=NOW)
    assert {file.name: file.read_bytes() for file in mine.iterdir()} == files


def test_a_server_with_a_damaged_ca_says_so_and_does_not_start(tmp_path: Path) -> None:
    open_certificates(tmp_path / "ca", ["localhost"], now=NOW)
    (tmp_path / "ca" / "ca.key").unlink()
    settings = ServerSettings(state_dir=str(tmp_path), platforms=("agent_only",))
    with pytest.raises(SettingsError, match=r"ca\.key is missing: put both"):
        serve(settings)


def test_openssl_believes_it(tmp_path: Path) -> None:
    made = open_certificates(tmp_path, ["upkeep.example", "10.0.0.1"], now=datetime.now(UTC))
    subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", tmp_path / "ca.pem", made.chain],
        check=True, capture_output=True,
    )  # fmt: skip
    certificate = x509.load_pem_x509_certificate(made.chain.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["10.0.0.1", "upkeep.example"]


# --- The agent's own code against the server ------------------------------------------------------


def paths_of(root: Path) -> Paths:
    """A machine of its own under a directory."""
    for name in ("state", "seed", "etc"):
        (root / name).mkdir(parents=True)
    (root / "seed" / "upkeep.json").write_text('{"uuid": "uuid-of-the-hardware"}')
    (root / "boot_id").write_text("boot-1\n")
    return replace(
        Paths(),
        state=root / "state",
        seed=root / "seed",
        etc=root / "etc",
        boot_id=root / "boot_id",
    )


def new_line(server: Any) -> dict[str, Any]:
    client = server.client()
    client.post("/v1/groups", json={"name": "db", "platform": "agent_only", "auto_upgrade": False})
    made: dict[str, Any] = client.post("/v1/machines", json={"name": "db-1", "group": "db"}).json()
    return made


def test_an_agent_enrols_checks_in_and_polls_over_tls(server: Any, tmp_path: Path) -> None:
    line = new_line(server)
    sha256 = server.services.certificates.ca_sha256
    paths = paths_of(tmp_path / "machine")
    wanted = Enrolment(server.base_url, sha256, "db-1", line["token"])
    known = enrol(paths, wanted)
    assert identity.load(paths.state) == known
    link = transport.Link(known.server, transport.trust(known.ca_pem))
    body = {
        "nonce": known.nonce, "uuid": known.uuid, "boot_id": "boot-1", "agent": "0.1.0",
        "image": {}, "os": "Debian", "busy": None, "reboot_required": "", "done": [],
        "health": {"state": "none", "since": "", "detail": "", "phase": None, "skip": False},
        "first_boot": {"state": "done", "detail": ""},
    }  # fmt: skip
    reply = parse_reply(link.call("/agent/v1/check-in", body, bearer=known.bearer))
    assert reply.mode.value == "long"
    assert reply.probe_given
    assert parse_reply(link.call("/agent/v1/poll?wait=0", body, bearer=known.bearer)).nonce == ""
    with pytest.raises(transport.Refused) as refused:
        link.call("/agent/v1/check-in", {**body, "uuid": "another"}, bearer=known.bearer)
    assert refused.value.kind == "identity_conflict"
    link.close()


def test_an_agent_does_not_talk_to_a_server_with_another_ca(server: Any, tmp_path: Path) -> None:
    line = new_line(server)
    wanted = Enrolment(server.base_url, "0" * 64, "db-1", line["token"])
    with pytest.raises(EnrolError) as refused:
        enrol(paths_of(tmp_path / "machine"), wanted)
    assert refused.value.kind == "wrong_ca"


def test_an_enrolled_agent_says_nothing_to_a_server_whose_ca_was_replaced(
    server: Any, tmp_path: Path
) -> None:
    """What the agent knows is the CA that it pinned; this server shows another's certificate."""
    pinned = open_certificates(tmp_path / "before", ["127.0.0.1"], now=datetime.now(UTC))
    link = transport.Link(server.base_url, transport.trust(pinned.ca_pem))
    with pytest.raises(transport.Unreachable, match="did not sign"):
        link.call("/agent/v1/check-in", {}, bearer="m_1.secret")
    link.close()


def run_line(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)


def test_the_pasted_line_brings_the_verified_agent(server: Any, tmp_path: Path) -> None:
    """Up to the agent's own `install`, which is tried in the agent's tests: a stand-in says what
    it was given."""
    made = server.services.certificates
    told = tmp_path / "told"
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "python3").write_text(f'#!/bin/sh\nsha256sum "$1" >{told}\nshift\necho "$@" >>{told}\n')
    (fake / "python3").chmod(0o755)
    line = pasted_line(server.base_url, made.ca_sha256, machine="db-1", token="T0KEN")
    ran = run_line(f"PATH={fake}:$PATH; {line}")
    assert ran.returncode == 0, ran.stderr
    digest, *arguments = told.read_text().split()
    served = server.client().get("/agent/v1/agent.pyz").content
    assert digest == hashlib.sha256(served).hexdigest()
    assert arguments[1:] == [
        "install", "--server", server.base_url, "--ca-sha256", made.ca_sha256,
        "--token=T0KEN", "--machine", "db-1",
    ]  # fmt: skip


def test_the_pasted_line_installs_nothing_from_a_wrong_server(server: Any) -> None:
    ran = run_line(pasted_line(server.base_url, "0" * 64, machine="db-1", token="T"))
    assert ran.returncode != 0
    assert "wrong CA" in ran.stderr


def run_script(
    tmp_path: Path, *arguments: str, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "install.sh"
    script.write_text(INSTALL_SCRIPT)
    environment = {**os.environ, **({"PATH": str(path)} if path is not None else {})}
    return subprocess.run(
        ["/bin/sh", script, *arguments],
        capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip


def test_the_script_checks_the_pin_by_itself_too(server: Any, tmp_path: Path) -> None:
    ran = run_script(
        tmp_path, "--server", server.base_url, "--ca-sha256", "0" * 64, "--token", TOKEN
    )
    assert ran.returncode == 1
    assert "is pinned; nothing was installed" in ran.stderr


TOKEN = "one-time-T0KEN"
WHOLE = ("--server", "https://127.0.0.1:1", "--ca-sha256", "0" * 64, "--token", TOKEN)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--token", TOKEN), 2, "--server is missing"),
        (("--server", "https://x", "--token", TOKEN), 2, "--ca-sha256 is missing"),
        (("--server", "https://x", "--ca-sha256", "0" * 64), 2, "--token is missing"),
        ((*WHOLE, "--machine"), 2, "--machine has no value"),
        (("--token", "--machine", TOKEN), 2, "--token has no value"),
        ((TOKEN, *WHOLE), 2, "a word before"),
        ((*WHOLE, TOKEN), 2, "a word before"),
        (("--tokn", TOKEN), 2, "alone"),
        ((f"--token={TOKEN}",), 2, "alone"),
        (WHOLE, 7, "curl"),
    ],
)
def test_a_line_that_went_wrong_says_what_and_never_the_token(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    ran = run_script(tmp_path, *arguments)
    assert ran.returncode == code
    assert words in ran.stderr
    assert TOKEN not in ran.stdout + ran.stderr


@pytest.mark.parametrize("token", ["-abc", "--server", "--abc"])
def test_a_token_that_looks_like_an_option_is_a_token(token: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "upkeep.agent", "enrol", "--server", "https://127.0.0.1:1",
         "--token", token, "--ca-sha256", "0" * 64],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "the server is not reachable" in ran.stderr


def test_a_machine_without_a_tool_is_told_which_and_never_the_token(tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    ran = run_script(tmp_path, *WHOLE, path=bare)
    assert ran.returncode == 1
    assert ran.stderr == "upkeep: install curl first\n"


def test_the_pasted_line_leaves_nothing_behind(server: Any, tmp_path: Path) -> None:
    made = server.services.certificates
    for pin, fake_exit in ((made.ca_sha256, 1), ("0" * 64, 0)):
        temporary, fake = tmp_path / f"tmp{fake_exit}", tmp_path / f"bin{fake_exit}"
        temporary.mkdir()
        fake.mkdir()
        (fake / "python3").write_text(f"#!/bin/sh\nexit {fake_exit}\n")
        (fake / "python3").chmod(0o755)
        line = pasted_line(server.base_url, pin, machine="db-1", token=TOKEN)
        ran = run_line(f"export TMPDIR={temporary} PATH={fake}:$PATH; {line}")
        assert ran.returncode == 1
        assert TOKEN not in ran.stdout + ran.stderr
        assert list(temporary.iterdir()) == []


def test_the_first_token_file_is_private(server: Any) -> None:
    (file,) = server.services.state_dir.glob("admin*token")
    assert file.stat().st_mode & 0o777 == 0o600
    assert server.client(file.read_text().strip()).get("/v1/tokens").status_code == 200

"""Enrolment: what each refusal says, and what a lost reply does."""

import socket
from types import SimpleNamespace

import pytest

from upkeep.agent import enrol, identity, transport
from upkeep.agent.enrol import EnrolError
from upkeep.agent.seed import Enrolment


@pytest.fixture
def wanted(server, machine):
    machine.seed(server)

    def make(token: str, **change: str) -> Enrolment:
        fields = {
            "server": server.url,
            "ca_sha256": server.authority.ca_sha256,
            "machine": "web-0",
            "token": token,
            **change,
        }
        return Enrolment(**fields)

    return make


def test_the_identity_holds_all_that_later_calls_need(server, machine, wanted) -> None:
    server.tokens["t"] = "web-0"
    known = enrol.enrol(machine.paths, wanted("t"))
    assert identity.load(machine.paths.state) == known
    assert known.machine_id == "m_web-0"
    assert known.uuid == machine.uuid
    assert known.ca_pem.strip() == server.authority.ca_pem.strip()
    assert known.bearer == f"m_web-0.{server.secrets['m_web-0']}"


def test_a_repeated_enrolment_from_the_same_machine_works(server, machine, wanted) -> None:
    server.tokens["t"] = "web-0"
    first = enrol.enrol(machine.paths, wanted("t"))
    assert enrol.enrol(machine.paths, wanted("t")).secret != first.secret


def test_each_refusal_says_what_to_do(server, make_machine, machine, wanted) -> None:
    server.tokens.update({"old": "expired", "used": "web-0", "other": "web-9"})
    other = make_machine("other")
    other.seed(server)
    enrol.enrol(other.paths, wanted("used"))
    for token, kind, words in [
        ("old", "token_expired", "good for one hour. Make a new one"),
        ("used", "token_used", "find out which"),
        ("none", "token_unknown", "Paste the whole line again"),
        ("other", "machine_unknown", "upkeep machine add web-0"),
    ]:
        with pytest.raises(EnrolError) as caught:
            enrol.enrol(machine.paths, wanted(token))
        assert caught.value.kind == kind
        assert words in str(caught.value)
    assert identity.load(machine.paths.state) is None


def test_a_wrong_pin_is_refused_before_the_token_is_sent(server, machine, wanted) -> None:
    with pytest.raises(EnrolError, match=r"is pinned.*is not your server") as caught:
        enrol.enrol(machine.paths, wanted("t", ca_sha256="0" * 64))
    assert caught.value.kind == "wrong_ca"
    assert server.seen == []


@pytest.mark.parametrize(
    "change",
    [
        {"server": "http://127.0.0.1:1"},
        {"server": "127.0.0.1"},
        {"server": "https://127.0.0.1:1/path"},
        {"server": "https://127.0.0.1:port"},
        {"ca_sha256": "abc"},
    ],
)
def test_an_argument_that_cannot_be_right_is_refused(machine, wanted, change) -> None:
    with pytest.raises(EnrolError) as caught:
        enrol.enrol(machine.paths, wanted("t", **change))
    assert caught.value.kind == "bad_argument"


def test_a_machine_without_a_uuid_says_how_to_get_one(machine, wanted) -> None:
    (machine.paths.seed / "upkeep.json").unlink()
    with pytest.raises(EnrolError, match="systemd-machine-id-setup"):
        enrol.enrol(machine.paths, wanted("t"))


def test_no_server_is_not_a_refusal(machine, wanted) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(transport.Unreachable, match="refused"):
            enrol.enrol(machine.paths, wanted("t", server=url))


@pytest.mark.parametrize("is_first", [True, False])
def test_a_second_certificate_beside_the_pinned_one_is_not_trusted(
    server, machine, wanted, other_authority, is_first
) -> None:
    """Only the certificate that has the digest is kept, wherever it stands."""
    server.tokens["t"] = "web-0"
    mine, other = server.authority.ca_pem, other_authority.ca_pem
    request = wanted("t")
    server.authority = SimpleNamespace(ca_pem=mine + other if is_first else other + mine)
    assert enrol.enrol(machine.paths, request).ca_pem.strip() == mine.strip()


BAD_BLOCK = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("answer", ["", "<html>", "-----BEGIN CERTIFICATE-----\n", "ü", BAD_BLOCK])
def test_what_is_no_certificate_is_no_ca(server, machine, wanted, answer) -> None:
    request = wanted("t")
    server.authority = SimpleNamespace(ca_pem=answer)
    with pytest.raises(transport.Unreachable, match="is this an upkeep server"):
        enrol.enrol(machine.paths, request)

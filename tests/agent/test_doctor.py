"""Each rule of the doctor, passed and failed."""

import json

import pytest

from upkeep.agent import doctor, enrol, identity
from upkeep.agent.doctor import CheckResult
from upkeep.agent.seed import Enrolment


@pytest.fixture
def enrolled(server, machine):
    machine.seed(server)
    server.tokens["t"] = "web-0"
    wanted = Enrolment(server.url, server.authority.ca_sha256, "web-0", "t")
    return enrol.enrol(machine.paths, wanted)


def rows(machine) -> dict[str, tuple[CheckResult, str]]:
    return {row.rule_id: (row.result, row.message) for row in doctor.examine(machine.paths)}


def failed(machine) -> dict[str, str]:
    return {k: words for k, (result, words) in rows(machine).items() if result == "Failed"}


def test_a_machine_that_is_well(machine, enrolled) -> None:
    (machine.paths.etc / "first-boot-done").write_text('{"state": "done"}')
    assert failed(machine) == {}
    assert "web-0 is m_web-0" in rows(machine)["IdentityPresent"][1]


def test_a_machine_that_was_never_enrolled(machine) -> None:
    machine.paths.seed.rmdir()
    told = failed(machine)
    assert set(told) == {"IdentityPresent", "ServerReachable", "CaMatchesPin", "ClockInStep"}
    assert "upkeep machine add" in told["IdentityPresent"]


def test_before_enrolment_the_seeds_server_is_looked_at(server, machine) -> None:
    machine.seed(server, token="t")
    assert set(failed(machine)) == {"IdentityPresent", "FirstBoot"}


def test_a_conflict_is_explained(machine, enrolled) -> None:
    identity.set_aside_conflict(machine.paths.state)
    assert "a cloned disk?" in failed(machine)["IdentityPresent"]


def test_another_ca(server, machine, enrolled, other_authority) -> None:
    server.authority = other_authority
    told = failed(machine)
    assert "is pinned" in told["CaMatchesPin"]
    assert "ServerReachable" not in told


def test_the_right_ca_with_a_certificate_of_another(
    server, machine, enrolled, other_authority
) -> None:
    server.context.load_cert_chain(other_authority.file)
    assert "did not sign" in failed(machine)["CaMatchesPin"]


def test_first_boot_that_failed_says_where_the_output_is(machine, enrolled) -> None:
    document = {"state": "failed", "detail": "a failed: exit 1"}
    (machine.paths.etc / "first-boot-done").write_text(json.dumps(document))
    told = failed(machine)["FirstBoot"]
    assert "a failed: exit 1" in told
    assert "first-boot.json" in told


def test_a_state_directory_that_is_not_there(machine) -> None:
    machine.paths.state.rmdir()
    assert {"StateDirectoryWritable", "DiskSpace"} <= set(failed(machine))


@pytest.mark.parametrize(
    ("offset_s", "result", "words"),
    [
        (0, "Passed", "0 s"),
        (30, "Passed", "30 s ahead of"),
        (-30, "Passed", "30 s behind"),
        (31, "Failed", "set-ntp"),
        (-31, "Failed", "31 s behind"),
    ],
)
def test_the_clock_may_be_30_seconds_off(offset_s: int, result: str, words: str) -> None:
    row = doctor.check_clock("Tue, 24 Nov 2026 09:00:00 GMT", now=1_795_510_800 + offset_s)
    assert row.result == result
    assert words in row.message


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_a_server_without_a_time_is_no_proof(date: str) -> None:
    assert doctor.check_clock(date, now=0).result is CheckResult.FAILED


def test_python_and_openssl() -> None:
    assert doctor.check_python((3, 9)).result is CheckResult.PASSED
    assert "install 3.9" in doctor.check_python((3, 8)).message
    assert "install the package openssl" in doctor.check_openssl(None).message

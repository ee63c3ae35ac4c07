"""`agent.pyz doctor`: why this machine does or does not work with its server, a row per rule.

Each row says what was found and, where it failed, what to do.  The rows have the names of the
update agent troubleshooter that people know: RuleId, RuleGroupId, CheckResult, CheckResultMessage.
"""

from __future__ import annotations

import os
import platform
import shutil
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from . import enrol, first_boot, identity, seed, transport
from .first_boot import FirstBootState
from .identity import Identity
from .machine import Paths
from .text_enum import TextEnum

CLOCK_DIFFERENCE_S_MAX = 30.0  # Where the server, too, stops to trust a clock.
FREE_BYTES_MIN = 16 * 1024 * 1024  # The journal and an identity are written whole beside the old.
PYTHON_FLOOR = (3, 9)


class CheckResult(TextEnum):
    PASSED = "Passed"
    FAILED = "Failed"


class RuleGroup(TextEnum):
    PREREQUISITES = "prerequisites"
    CONNECTIVITY = "connectivity"
    SERVICE_HEALTH = "servicehealth"
    PERMISSIONS = "permissions"


@dataclass(frozen=True)
class Row:
    rule_id: str
    group: RuleGroup
    result: CheckResult
    message: str

    def to_json(self) -> dict[str, str]:
        return {
            "RuleId": self.rule_id,
            "RuleGroupId": self.group.value,
            "CheckResult": self.result.value,
            "CheckResultMessage": self.message,
        }


def examine(paths: Paths) -> tuple[Row, ...]:
    """All rules, in the order in which to mend them."""
    try:
        known = identity.load(paths.state)
        trouble = ""
    except OSError as error:
        known, trouble = None, f"cannot read it: {error.strerror}; run the doctor as root"
    return (
        check_python(sys.version_info[:2]),
        check_openssl(shutil.which("openssl")),
        check_state_dir(paths),
        check_disk_space(paths),
        check_identity(paths, known, trouble),
        *check_server(paths, known),
        check_first_boot(paths),
    )


def is_well(rows: Sequence[Row]) -> bool:
    return all(row.result is CheckResult.PASSED for row in rows)


def to_text(rows: Sequence[Row]) -> str:
    """The rows as columns: RuleId, CheckResult, message."""
    width = max(len(row.rule_id) for row in rows)
    return "\n".join(f"{row.rule_id:<{width}}  {row.result:<6}  {row.message}" for row in rows)


def check_python(version: tuple[int, ...]) -> Row:
    found = ".".join(str(part) for part in version)
    floor = ".".join(str(part) for part in PYTHON_FLOOR)
    return _row(
        "PythonVersion",
        RuleGroup.PREREQUISITES,
        version >= PYTHON_FLOOR,
        f"Python {found} on {platform.machine()}, {ssl.OPENSSL_VERSION}",
        f"Python {found} is too old; install {floor} or newer",
    )


def check_openssl(path: str | None) -> Row:
    return _row(
        "OpensslPresent",
        RuleGroup.PREREQUISITES,
        path is not None,
        f"{path}",
        "there is no `openssl` on the PATH, so signatures of packages and scripts cannot be"
        " checked; install the package openssl",
    )


def check_state_dir(paths: Paths) -> Row:
    """Writable is tried, not read from mode bits: a read-only mount has good ones."""
    probe = paths.state / f".doctor.{os.getpid()}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
        problem = ""
    except OSError as error:
        problem = error.strerror or str(error)
    return _row(
        "StateDirectoryWritable",
        RuleGroup.PERMISSIONS,
        not problem,
        f"{paths.state}",
        f"cannot write to {paths.state}: {problem}; is the data volume mounted, and are you root?",
    )


def check_disk_space(paths: Paths) -> Row:
    try:
        free = shutil.disk_usage(paths.state).free
    except OSError as error:
        return _row("DiskSpace", RuleGroup.PREREQUISITES, False, "", f"{paths.state}: {error}")
    return _row(
        "DiskSpace",
        RuleGroup.PREREQUISITES,
        free >= FREE_BYTES_MIN,
        f"{free // 2**20} MiB free for {paths.state}",
        f"only {free // 2**20} MiB free for {paths.state}; make room,"
        f" {FREE_BYTES_MIN // 2**20} MiB are needed",
    )


def check_identity(paths: Paths, known: Identity | None, trouble: str) -> Row:
    failed = trouble or "this machine is not enrolled; paste the line of `upkeep machine add NAME`"
    if not trouble and identity.has_conflict(paths.state):
        failed = enrol.conflict_advice(paths.state)
    passed = "" if known is None else f"{known.machine} is {known.machine_id} at {known.server}"
    return _row("IdentityPresent", RuleGroup.PREREQUISITES, known is not None, passed, failed)


def check_server(paths: Paths, known: Identity | None) -> tuple[Row, Row, Row]:
    """Reachable, who it must be, and of one time with us; one call answers all three."""
    group = RuleGroup.CONNECTIVITY
    server, pin = _server_and_pin(paths, known)
    if not server or not pin:
        unknown = "no server is known; enrol first"
        return (
            _row("ServerReachable", group, False, "", unknown),
            _row("CaMatchesPin", group, False, "", unknown),
            _row("ClockInStep", group, False, "", unknown),
        )
    asked_at = time.time()
    try:
        ca_pem = transport.fetch_pinned_ca(server, pin)
    except transport.WrongCa as error:
        return (
            _row("ServerReachable", group, True, server, ""),
            _row("CaMatchesPin", group, False, "", str(error)),
            _row("ClockInStep", group, False, "", "not asked: this may be another server"),
        )
    except (transport.Unreachable, ValueError) as error:
        away = f"{error}; check the address, routes and firewalls (outbound TCP is enough)"
        return (
            _row("ServerReachable", group, False, "", away),
            _row("CaMatchesPin", group, False, "", "not asked: the server is not reachable"),
            _row("ClockInStep", group, False, "", "not asked: the server is not reachable"),
        )
    date, problem = _verified_date(server, ca_pem)
    return (
        _row("ServerReachable", group, True, f"{server} in {time.time() - asked_at:.2f} s", ""),
        _row("CaMatchesPin", group, not problem, f"SHA-256 {pin}", problem),
        check_clock(date, now=time.time()),
    )


def check_clock(date: str, *, now: float) -> Row:
    """Compares with the server's Date header, which is to the second."""
    try:
        difference_s = now - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        difference_s = None
    words = "the server did not say its time"
    if difference_s is not None:
        side = "ahead of" if difference_s > 0 else "behind"
        words = f"{abs(difference_s):.0f} s {side} the server"
    return _row(
        "ClockInStep",
        RuleGroup.CONNECTIVITY,
        difference_s is not None and abs(difference_s) <= CLOCK_DIFFERENCE_S_MAX,
        words,
        f"{words}; at most {CLOCK_DIFFERENCE_S_MAX:.0f} s are allowed. Set this machine's clock"
        " (`timedatectl set-ntp true`)",
    )


def check_first_boot(paths: Paths) -> Row:
    state = first_boot.read_state(paths)
    if state is None:
        is_seeded = paths.seed.is_dir()
        words = "has not ended on this OS disk" if is_seeded else "no seed, nothing to run"
        return _row("FirstBoot", RuleGroup.SERVICE_HEALTH, not is_seeded, words, words)
    return _row(
        "FirstBoot",
        RuleGroup.SERVICE_HEALTH,
        state.state is FirstBootState.DONE,
        f"{state.state}",
        f"{state.detail}; the output is in {paths.state / first_boot.RESULT}. Mend the script and"
        f" remove {paths.etc / first_boot.MARKER} and {paths.etc / first_boot.PROGRESS} to run"
        " all again",
    )


def _server_and_pin(paths: Paths, known: Identity | None) -> tuple[str, str]:
    if known is not None:
        return known.server, known.ca_sha256
    try:
        raw = seed.read_upkeep_json(paths.seed)
    except seed.SeedError:
        raw = {}
    return str(raw.get("server") or ""), str(raw.get("ca_sha256") or "")


def _verified_date(server: str, ca_pem: str) -> tuple[str, str]:
    """The Date header of a call that trusts only the CA, and why there is none."""
    link = transport.Link(server, transport.trust(ca_pem))
    try:
        _, headers, _ = link.exchange("GET", transport.CA_PATH, None, {}, transport.READ_TIMEOUT_S)
    except transport.Unreachable as error:
        return "", str(error)
    finally:
        link.close()
    return {key.lower(): value for key, value in headers.items()}.get("date", ""), ""


def _row(rule_id: str, group: RuleGroup, passed: bool, good: str, bad: str) -> Row:
    result = CheckResult.PASSED if passed else CheckResult.FAILED
    return Row(rule_id, group, result, good if passed else bad)

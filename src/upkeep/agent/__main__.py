"""The agent's command line: run, doctor, enrol, install."""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import VERSION
from .machine import Paths

EXIT_OK = 0
EXIT_FAILED = 1  # The thing asked for did not happen, or the doctor found something.
EXIT_USAGE = 2  # argparse's own.


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    paths = replace(Paths(), state=parsed.state_dir, seed=parsed.seed_dir, etc=parsed.etc_dir)
    if parsed.command == "run":
        return _run(paths, parsed)
    if parsed.command == "doctor":
        return _doctor(paths, as_json=parsed.json)
    return _enrol(paths, parsed)


def _joined(arguments: Sequence[str]) -> list[str]:
    """`--token X` as `--token=X`: one token in 64 begins with a hyphen, and argparse would take
    it for an option.
    """
    words: list[str] = []
    for word in arguments:
        if words and words[-1] == "--token":
            words[-1] = f"--token={word}"
        else:
            words.append(word)
    return words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agent.pyz", description="The upkeep agent.")
    parser.add_argument("--version", action="version", version=f"upkeep agent {VERSION}")
    places = argparse.ArgumentParser(add_help=False)
    default = Paths()
    places.add_argument("--state-dir", type=Path, default=default.state, help="%(default)s")
    places.add_argument("--seed-dir", type=Path, default=default.seed, help="%(default)s")
    places.add_argument("--etc-dir", type=Path, default=default.etc, help="%(default)s")
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", parents=[places], help="run until stopped")
    run.add_argument("--boot-id-file", type=Path, default=default.boot_id, help="%(default)s")
    run.add_argument(
        "--reboot-program", default="", help="run this instead of the system's own restart"
    )
    doctor = commands.add_parser("doctor", parents=[places], help="check this machine")
    doctor.add_argument("--json", action="store_true", help="rows as JSON")
    for name, text in (
        ("enrol", "make this machine known to a server"),
        ("install", "copy the agent into place, enrol and start it"),
    ):
        command = commands.add_parser(name, parents=[places], help=text)
        command.add_argument("--server", required=True, help="https://HOST[:PORT]")
        command.add_argument("--token", required=True, help="one-time enrolment token")
        command.add_argument("--ca-sha256", required=True, help="SHA-256 of the server's CA")
        command.add_argument("--machine", default="", help="name at the server; the host's name")
        if name == "install":
            command.add_argument("--prefix", type=Path, default=Path("/"), help="%(default)s")
    return parser


def _run(paths: Paths, parsed: argparse.Namespace) -> int:
    from . import machine
    from .loop import Agent

    paths = replace(paths, boot_id=parsed.boot_id_file)
    try:
        lock = _lock(paths.state)
    except OSError as error:
        print(f"cannot use {paths.state}: {error.strerror or error}", file=sys.stderr)
        return EXIT_FAILED
    program = (parsed.reboot_program,) if parsed.reboot_program else machine.reboot_command()
    agent = Agent(paths, reboot=lambda: machine.reboot(program))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    try:
        agent.run()
    finally:
        os.close(lock)
    return EXIT_OK


def _lock(state_dir: Path) -> int:
    """One agent per state directory: two would take each other for a clone.

    Raises:
        OSError: another agent has it, or the directory cannot be used.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BlockingIOError(0, "another agent runs with it") from None
    return descriptor


def _doctor(paths: Paths, *, as_json: bool) -> int:
    from . import doctor

    rows = doctor.examine(paths)
    print(
        json.dumps([row.to_json() for row in rows], indent=1) if as_json else doctor.to_text(rows)
    )
    return EXIT_OK if doctor.is_well(rows) else EXIT_FAILED


def _enrol(paths: Paths, parsed: argparse.Namespace) -> int:
    """Both `enrol` and `install`; what goes wrong is one sentence that says what to do."""
    from . import enrol, install, transport
    from .seed import Enrolment

    name = parsed.machine or socket.gethostname().partition(".")[0].lower()
    wanted = Enrolment(parsed.server, parsed.ca_sha256, name, parsed.token)
    try:
        if parsed.command == "install":
            print("\n".join(install.install(paths, wanted, prefix=parsed.prefix)))
        else:
            known = enrol.enrol(paths, wanted)
            print(f"enrolled: {known.machine} is {known.machine_id} at {known.server}")
    except (enrol.EnrolError, install.InstallError) as error:
        print(f"{parsed.command} failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    except transport.Unreachable as error:
        print(
            f"{parsed.command} failed: the server is not reachable: {error}. Check the address,"
            " routes and firewalls, then run the same line again: the token is not used up",
            file=sys.stderr,
        )
        return EXIT_FAILED
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        # What was answered could not be kept; the same token from here is answered again.
        todo = "make room there and run the same line again" if is_full else "run this as root"
        print(f"{parsed.command} failed: {error}; {todo}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())

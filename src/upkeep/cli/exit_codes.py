"""How a command ends: one table of exit codes, and the one exception that carries them.

A command that cannot do what was asked raises `CommandFailed` with what happened and what to do
about it; `main.py` prints both on stderr and exits with the code.  Nothing else prints errors.
The numbers are a promise to scripts: they are never reused, and docs/cli.md shows this table.
"""

from collections.abc import Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_AUTHORISED = 4
    NOT_FOUND = 5
    REFUSED = 6
    INVALID = 7
    ROLLOUT_ENDED_BADLY = 8
    TIMED_OUT = 9
    INTERRUPTED = 130


MEANINGS: Mapping[ExitCode, str] = {
    ExitCode.OK: "Done. With `--follow`: the rollout completed.",
    ExitCode.FAILED: "It did not work here: a missing file or tool, a failed build, a doctor or a"
    " simulation that found something, or a fault inside the server.",
    ExitCode.USAGE: "The command line is wrong: an unknown option, a missing argument, a value"
    " that cannot be read.",
    ExitCode.UNREACHABLE: "The server cannot be reached, is busy, or does not show the certificate"
    " it must have. Nothing was changed; the same command may work later.",
    ExitCode.NOT_AUTHORISED: "Not logged in, or the token is unknown, revoked, expired, or not"
    " allowed to do this.",
    ExitCode.NOT_FOUND: "There is no such group, machine, rollout, image, ...",
    ExitCode.REFUSED: "Not in this state: the name is taken, a rollout runs already, it is"
    " protected, ...",
    ExitCode.INVALID: "The server understood the request and finds a value wrong.",
    ExitCode.ROLLOUT_ENDED_BADLY: "With `--follow`: the rollout was faulted or cancelled.",
    ExitCode.TIMED_OUT: "The server, or what was waited for, took longer than allowed. A write may"
    " have happened all the same: look before you repeat it.",
    ExitCode.INTERRUPTED: "Ctrl-C. What runs on the server goes on.",
}


class CommandFailed(Exception):
    """The command cannot do it.

    Attributes:
        what: one sentence: what happened.
        remedy: one sentence: what to do now.
    """

    def __init__(self, code: ExitCode, what: str, remedy: str) -> None:
        super().__init__(f"{what} {remedy}")
        self.code = code
        self.what = what
        self.remedy = remedy

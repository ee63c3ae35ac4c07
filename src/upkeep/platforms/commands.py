"""Runs the commands of the operating system that drivers stand on.

One place turns what a command says into a `DriverError`: a missing command names the Debian
package to install, a full disk is NO_SPACE, a command that hangs is TIMED_OUT, anything else is
FAILED with the command's own last words.  Always an argument list, never a shell.
"""

import errno
import subprocess
from collections.abc import Sequence

from upkeep.ports import DriverError, DriverErrorKind

# Every command here works on local kernel state; one that takes longer than this hangs.
COMMAND_TIME_MAX_S = 60.0
# Enough of the last words of a command to see why it failed, small enough for one log line.
DETAIL_CHARS_MAX = 500


def run_command(argv: Sequence[str], *, package: str, timeout_s: float = COMMAND_TIME_MAX_S) -> str:
    """What the command prints; raises when it cannot be run or ends with an error.

    Args:
        package: the Debian package that brings the command, for the person who lacks it.

    Raises:
        DriverError: TOOL_MISSING, TIMED_OUT, NO_SPACE or FAILED.
    """
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
    except FileNotFoundError as error:
        raise tool_missing(argv[0], package) from error
    except subprocess.TimeoutExpired as error:
        raise DriverError(
            DriverErrorKind.TIMED_OUT,
            f"{argv[0]} did not end within {timeout_s:g} s; look at the host's load and disks",
            retryable=True,
        ) from error
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip())[-DETAIL_CHARS_MAX:]
        if "No space left on device" in words:
            raise no_space(words)
        raise DriverError(
            DriverErrorKind.FAILED,
            f"{' '.join(argv[:4])} ended with {done.returncode}: {words}",
            retryable=False,
        )
    return done.stdout


def tool_missing(command: str, package: str) -> DriverError:
    """The error for a command that is not installed."""
    return DriverError(
        DriverErrorKind.TOOL_MISSING,
        f"the command {command} is missing; install it with: apt-get install {package}",
        retryable=False,
    )


def no_space(words: str) -> DriverError:
    """The error for a full disk; retryable, because disks are also emptied by other machines."""
    return DriverError(
        DriverErrorKind.NO_SPACE,
        f"no space left: {words}; free some, or prune images that no machine uses",
        retryable=True,
    )


def from_os_error(error: OSError) -> DriverError:
    """An operating system's error as the driver's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space(str(error))
    return DriverError(
        DriverErrorKind.FAILED, f"{error}; look at the host's disks and rights", retryable=True
    )

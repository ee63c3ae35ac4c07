"""How to reach libvirt, and what its errors mean.

Opens connections (seeing to it that the daemons run) and turns a `libvirtError` into the port's
closed kinds, with a detail that says what to do.  Holds nothing: a connection is opened for a few
calls and closed again, since one that is kept has to be watched, and one daemon restart later it
is a dead one.  Opening takes 2 ms.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import libvirt

from upkeep.platforms.libvirt_daemons import ensure_daemons
from upkeep.ports import DriverError, DriverErrorKind

# libvirt prints every error to stderr by itself; here they are raised, and said once.
libvirt.registerErrorHandler(lambda _context, _error: None, None)

KIND_OF_CODE: Mapping[int, tuple[DriverErrorKind, bool]] = {
    libvirt.VIR_ERR_NO_DOMAIN: (DriverErrorKind.NOT_FOUND, False),
    libvirt.VIR_ERR_NO_CONNECT: (DriverErrorKind.UNREACHABLE, True),
    libvirt.VIR_ERR_RPC: (DriverErrorKind.UNREACHABLE, True),
    libvirt.VIR_ERR_NO_SERVER: (DriverErrorKind.UNREACHABLE, True),
    libvirt.VIR_ERR_OPERATION_TIMEOUT: (DriverErrorKind.TIMED_OUT, True),
    libvirt.VIR_ERR_NO_MEMORY: (DriverErrorKind.NO_SPACE, True),
}

# Where one code stands for many things, libvirt's words decide; the first that fits counts.
KIND_OF_WORDS: tuple[tuple[str, DriverErrorKind, bool, str], ...] = (
    (
        "No space left on device",
        DriverErrorKind.NO_SPACE,
        True,
        "free space on the file system of the machines' directory",
    ),
    (
        "Cannot allocate memory",
        DriverErrorKind.NO_SPACE,
        True,
        "the host's memory is full: stop a machine or give machines less",
    ),
    (
        "Cannot check QEMU binary",
        DriverErrorKind.TOOL_MISSING,
        False,
        "apt install qemu-system-x86",
    ),
    (
        "client socket is closed",
        DriverErrorKind.UNREACHABLE,
        True,
        "the libvirt daemon went away during the call",
    ),
    (
        "Failed to connect socket",
        DriverErrorKind.UNREACHABLE,
        True,
        "start virtlogd and then libvirtd (or virtqemud)",
    ),
    (
        "Permission denied",
        DriverErrorKind.FAILED,
        False,
        "QEMU's user must be able to pass every directory above the disks (chmod o+x)",
    ),
)


@contextmanager
def connected(uri: str) -> Iterator[Any]:
    """A connection for the calls of one block; a `libvirtError` in it becomes a `DriverError`."""
    ensure_daemons(uri)
    try:
        connection = libvirt.open(uri)
        try:
            yield connection
        finally:
            connection.close()
    except libvirt.libvirtError as error:
        raise as_driver_error(error) from error


def as_driver_error(error: libvirt.libvirtError) -> DriverError:
    """The port's error for one of libvirt's."""
    words = str(error)
    for part, kind, retryable, advice in KIND_OF_WORDS:
        if part in words:
            return DriverError(kind, f"{words}: {advice}", retryable=retryable)
    kind, retryable = KIND_OF_CODE.get(error.get_error_code(), (DriverErrorKind.FAILED, False))
    return DriverError(kind, f"libvirt: {words}", retryable=retryable)

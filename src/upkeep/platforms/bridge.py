"""The Linux bridge that local machines hang on, and the addresses given out on it.

Knows one bridge, its own address (the gateway of the machines) and which addresses are free.  It
does not remember who has which: that is in the machines' records.  It routes nothing to the
outside: machines reach the server and each other.

Invariant: a bridge belongs to one driver root.  The root is written into the bridge's alias; a
second root is refused while machines of the first hang on it, because both would give out the
same addresses.

Example: Bridge() is `upkeep0` with 10.213.0.1/24 and gives out 10.213.0.10 to 10.213.0.254.
"""

import hashlib
import ipaddress
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from upkeep.platforms.commands import run_command
from upkeep.ports import DriverError, DriverErrorKind

# The kernel's IFNAMSIZ is 16 with the closing zero.
INTERFACE_NAME_PATTERN = re.compile(r"[a-z][a-z0-9._-]{0,14}")
# .1 is the bridge; a few more are left to the operator's own things.
FIRST_OFFSET = 10
SYS_CLASS_NET = Path("/sys/class/net")
ADDRESS_WAS_SET = 3  # NET_ADDR_SET, linux/netdevice.h.
NO_ADDRESS = "00:00:00:00:00:00"  # A bridge whose last port has gone.


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """Attributes:
    name: at most 15 characters.
    address: the bridge's own, with its prefix length.
    """

    name: str = "upkeep0"
    address: str = "10.213.0.1/24"

    def __post_init__(self) -> None:
        if INTERFACE_NAME_PATTERN.fullmatch(self.name) is None:
            raise ValueError(f"{self.name!r} is no interface name; use at most 15 of a-z 0-9 . _ -")
        ipaddress.IPv4Interface(self.address)

    def free_address(self, taken: Collection[str]) -> str:
        """The lowest address nobody has.

        Raises:
            DriverError: FAILED when the network is full.
        """
        interface = ipaddress.IPv4Interface(self.address)
        network = interface.network
        first = int(network.network_address) + FIRST_OFFSET
        for number in range(first, int(network.broadcast_address)):
            address = str(ipaddress.IPv4Address(number))
            if address not in taken and address != str(interface.ip):
                return address
        raise DriverError(
            DriverErrorKind.FAILED,
            f"no address is free on {self.name} ({network}); use a wider network",
            retryable=False,
        )

    def network_json(self, address: str) -> bytes:
        """The seed's `network.json` (docs/guest.md) for a machine with this address."""
        interface = ipaddress.IPv4Interface(self.address)
        document = {
            "address": f"{address}/{interface.network.prefixlen}",
            "gateway": str(interface.ip),
        }
        return json.dumps(document).encode() + b"\n"

    def ensure(self, owner: Path) -> None:
        """Make the bridge with its address and bring it up; done already is success."""
        device = SYS_CLASS_NET / self.name
        if not device.exists():
            # Somebody else may make it in this moment: then the next look finds it.
            try:
                _ip("link", "add", "name", self.name, "type", "bridge")
            except DriverError:
                if not device.exists():
                    raise
        if not (device / "bridge").is_dir():
            raise DriverError(
                DriverErrorKind.FAILED,
                f"{self.name} exists and is no bridge; configure another name",
                retryable=False,
            )
        self._own(device, owner)
        self._pin_hardware_address(device)
        _ip("address", "replace", self.address, "dev", self.name)
        _ip("link", "set", "dev", self.name, "up")

    def _own(self, device: Path, owner: Path) -> None:
        mark = f"upkeep {owner}"[:255]  # The kernel's IFALIASZ.
        found = (device / "ifalias").read_text().strip()
        if found == mark:
            return
        if found and any((device / "brif").iterdir()):
            raise DriverError(
                DriverErrorKind.FAILED,
                f"{self.name} is in use by '{found}'; give each root a bridge of its own",
                retryable=False,
            )
        _ip("link", "set", "dev", self.name, "alias", mark)

    def _pin_hardware_address(self, device: Path) -> None:
        """Keep one hardware address for good.

        Left to itself a bridge takes the lowest of its ports', so a machine that comes or goes
        can change it, and every other machine then answers to an address that nobody has, for
        seconds.  Setting it, even to what it is, ends that.
        """
        if int((device / "addr_assign_type").read_text()) == ADDRESS_WAS_SET:
            return
        found = (device / "address").read_text().strip()
        if found == NO_ADDRESS:
            digest = hashlib.sha256(self.name.encode()).digest()
            # Locally administered, unicast.
            found = ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))
        _ip("link", "set", "dev", self.name, "address", found)

    def remove(self) -> None:
        """Take the bridge away; done already is success."""
        if (SYS_CLASS_NET / self.name).exists():
            _ip("link", "delete", "dev", self.name)


def _ip(*arguments: str) -> str:
    return run_command(("ip", *arguments), package="iproute2")

"""Gives the machine's interface the address and route that the platform wrote into the seed.

Reads /run/upkeep-seed/network.json: {"address": "10.213.0.11/24", "gateway": "10.213.0.1"}.
Configures the first interface named host* (nspawn), en* or eth* (virtual machines); one that
comes up later than this program is waited for.
"""

import json
import socket
import subprocess
import time
from pathlib import Path

SEED = Path("/run/upkeep-seed/network.json")
PREFIXES = ("host", "en", "eth")
# A virtio device under emulation appears within a few seconds of boot.
INTERFACE_TIME_MAX_S = 60.0
DISCARD_PORT = 9  # RFC 863.


def find_interface() -> str:
    names = sorted(path.name for path in Path("/sys/class/net").iterdir())
    for prefix in PREFIXES:
        for name in names:
            if name.startswith(prefix):
                return name
    return ""


def ip(*arguments: str) -> None:
    subprocess.run(("ip", *arguments), check=True)


def main() -> None:
    network = json.loads(SEED.read_text())
    deadline = time.monotonic() + INTERFACE_TIME_MAX_S
    while not (interface := find_interface()):
        if time.monotonic() > deadline:
            raise SystemExit("no interface named host*, en* or eth* has appeared")
        time.sleep(0.1)
    ip("address", "replace", network["address"], "dev", interface)
    ip("link", "set", "dev", interface, "up")
    ip("route", "replace", "default", "via", network["gateway"], "dev", interface)
    greet(network["gateway"])


def greet(gateway: str) -> None:
    """Make the gateway learn our hardware address.

    It has asked for it in vain while we were starting and asks again only after a second;
    one datagram from us makes us ask for its address, which tells it ours.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as discard:
        try:
            discard.sendto(b"", (gateway, DISCARD_PORT))
        except OSError:
            pass  # Only a second is lost.


if __name__ == "__main__":
    main()

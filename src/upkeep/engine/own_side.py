"""Which addresses are the server's own side, where nobody may make it look (DESIGN §13)."""

import ipaddress


def is_own_side(address: str) -> bool:
    """Loopback, link-local or unspecified; an IPv4 address that is written as IPv6 counts as what
    it is.

    Raises:
        ValueError: it is no address.
    """
    ip = ipaddress.ip_address(address)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_link_local or ip.is_unspecified

"""Where a request came from, as far as one caller can choose it."""

import ipaddress
from functools import lru_cache

Source = str | None
"""An address or an IPv6 /64; None where there is no address."""


@lru_cache(maxsize=4_096)
def source_of(ip: str | None) -> Source:
    """The source that an address belongs to: itself, or its /64, which one subscriber gets.

    RFC 6177: a subscriber that has one address of a /64 has all of them.
    """
    if ip is None:
        return None
    address = ipaddress.ip_address(ip)
    if address.version == 4:
        return ip
    return str(ipaddress.ip_network((address, 64), strict=False))

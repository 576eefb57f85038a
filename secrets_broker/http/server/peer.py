"""The address that a request comes from: it is recorded, judged and counted by it.

It is the socket's peer, unless that is a trusted proxy. Then X-Forwarded-For is read from the
right, where each proxy appends its peer. The first address that is not a trusted proxy's is the
client's; anybody may have written what is left of it. The header Forwarded (RFC 7239) is not read,
nor any header about a client certificate.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

_FORWARDED_FOR: Final = b"x-forwarded-for"


class Peers:
    """Finds the client's address, given the trusted proxies."""

    def __init__(self, proxies: Sequence[IPv4Network | IPv6Network] = ()) -> None:
        self._proxies = tuple(proxies)

    def address(self, scope: Mapping[str, Any]) -> str | None:
        """The client's address in normal form; None over a Unix socket.

        Where an entry is malformed, it is the address of the proxy that sent it.
        """
        address = peer_address(scope)
        if address is None or not self.is_proxy(address):
            return address
        for entry in reversed(_forwarded(scope)):
            before = _entry(entry)
            if before is None:
                return address
            address = before
            if not self.is_proxy(address):
                return address
        return address

    def is_proxy(self, text: str) -> bool:
        """Tell whether an address in normal form is one of the proxies."""
        if not self._proxies:
            return False
        address = ipaddress.ip_address(text)
        return any(address in network for network in self._proxies)


def peer_address(scope: Mapping[str, Any]) -> str | None:
    """The socket's peer in normal form, without a zone id; None over a Unix socket."""
    client = scope.get("client")
    return _normal_form(client[0]) if client else None


def _forwarded(scope: Mapping[str, Any]) -> list[str]:
    # Several header lines are one list, in their order (RFC 9110, section 5.3).
    lines = [value for name, value in scope["headers"] if name == _FORWARDED_FOR]
    text = b",".join(lines).decode("latin-1")
    return text.split(",") if text.strip(" \t") else []


def _entry(text: str) -> str | None:
    """An entry's address; some proxies add the port."""
    text = text.strip(" \t")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        return _normal_form(host) if bracket and ":" in host and _is_port(rest) else None
    host, colon, port = text.partition(":")
    if colon and ":" not in port:
        return _normal_form(host) if _is_port(colon + port) else None
    return _normal_form(text)


def _is_port(text: str) -> bool:
    return not text or (text[0] == ":" and text[1:].isascii() and text[1:].isdigit())


@lru_cache(maxsize=1_024)  # the same few services call all day
def _normal_form(host: str) -> str | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)

"""Reads a provider's URL. No message repeats any part of it: a secret may stand anywhere."""

from collections.abc import Collection, Mapping
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qsl, urlsplit

from secrets_broker.ledger.errors import KmsUrlError


def split(url: str) -> SplitResult:
    """The parts of a URL without user, password or fragment; raises KmsUrlError."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise KmsUrlError("the URL of the KMS is not a URL") from None
    if "@" in parts.netloc:
        raise KmsUrlError(
            "the URL of the KMS holds a user or password: URLs end in logs, so no "
            "credential goes into one"
        )
    if parts.fragment:
        raise KmsUrlError("the URL of the KMS has a fragment (after #), which means nothing")
    return parts


def parameters(parts: SplitResult, known: Collection[str]) -> Mapping[str, str]:
    """The parameters of the query; raises KmsUrlError for one that is unknown or given twice."""
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    found = dict(pairs)
    if len(found) != len(pairs):
        raise KmsUrlError("a parameter of the KMS's URL is given twice")
    if found.keys() - set(known):
        raise KmsUrlError(
            f"an unknown parameter in the KMS's URL: {parts.scheme} has {_either(known)}"
        )
    if not all(found.values()):
        raise KmsUrlError("a parameter of the KMS's URL is empty")
    return found


def require_safe_transport(parts: SplitResult, name: str) -> None:
    """Raise KmsUrlError for plain HTTP to another machine: the KEK would cross a network in clear.

    Plain HTTP to a loopback address is allowed, for a local agent or a test server.
    """
    if not parts.hostname:
        raise KmsUrlError(f"{name} names no host")
    if not parts.scheme.endswith("https") and not _is_loopback(parts.hostname):
        raise KmsUrlError(
            f"{name} is plain HTTP to another machine: a KEK in clear would cross the network; "
            "use HTTPS, or a local agent on a loopback address"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _either(names: Collection[str]) -> str:
    return ", ".join(names) if names else "none"

"""Rights: what a grant allows, and whether one request is allowed by it. Pure.

A grant has rules, in order. The first rule whose operation, host, purpose and network fit the
request decides. If that rule needs a reason, the request must give one. If no rule fits, the
request is refused, and the refusal names the test that the nearest rule failed.
"""

import ipaddress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from secrets_broker.ledger.encoding import rfc3339, text_problem

Operation = Literal["read", "write", "delete", "audit", "admin"]
READ: Final = "read"
WRITE: Final = "write"
DELETE: Final = "delete"
AUDIT: Final = "audit"
ADMIN: Final = "admin"
OPERATIONS: Final[tuple[Operation, ...]] = ("read", "write", "delete", "audit", "admin")

FORBIDDEN: Final = "forbidden"
REASON_REQUIRED: Final = "reason_required"
RATE_LIMITED: Final = "rate_limited"
REFUSALS: Final = frozenset({FORBIDDEN, REASON_REQUIRED, RATE_LIMITED})
"""The errors of an access.denied event."""

ANY: Final = "*"
MAX_PATTERN: Final = 255
MAX_RULES: Final = 64

_ON_CREDENTIALS: Final = frozenset({READ, WRITE, DELETE})
TESTS: Final = ("operation", "host", "purpose", "network")
"""What a rule tests, in this order; a refusal names the failed one if no rule fits."""
REASON: Final = "reason"
WIDER: Final = "wider_than_own"
"""The rule that refuses a caller that would give more than it has."""

Pattern = Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN)]


class Limit(msgspec.Struct, frozen=True, array_like=True):
    """At most so many within so many seconds."""

    most: Annotated[int, Meta(ge=1, le=1_000_000)]
    seconds: Annotated[int, Meta(ge=1, le=86_400)]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Allows operations on credentials whose names fit, from networks that fit."""

    allow: Annotated[tuple[Operation, ...], Meta(min_length=1)]
    hosts: tuple[Pattern, ...] = ()
    purposes: tuple[Pattern, ...] = ()
    networks: tuple[str, ...] = ()
    """CIDRs; empty means from anywhere."""
    reason: bool = False

    def __post_init__(self) -> None:
        """Check what types cannot express."""
        if _ON_CREDENTIALS.intersection(self.allow) and not (self.hosts and self.purposes):
            # All names are never the default: a grantor who means all writes `*`.
            raise ValueError("hosts: with read, write or delete, hosts and purposes are required")
        for field, patterns in (("hosts", self.hosts), ("purposes", self.purposes)):
            for pattern in patterns:
                if problem := text_problem(pattern):
                    raise ValueError(f"{field}: {problem}")
        for network in self.networks:
            _check_network(network)


class Rights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a grant allows, until when and how often."""

    rules: Annotated[tuple[Rule, ...], Meta(min_length=1, max_length=MAX_RULES)]
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    requests: Limit | None = None
    hosts: Limit | None = None
    """How many distinct hosts may be read."""

    @property
    def details(self) -> dict[str, Any]:
        """As an event's details hold them."""
        fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        fields["expires_at"] = rfc3339(self.expires_at) if self.expires_at else None
        return fields


class Request(msgspec.Struct, frozen=True):
    """What is judged; a host of None means no particular credential."""

    operation: str
    at: datetime
    host: str | None = None
    purpose: str | None = None
    ip: str | None = None
    reason: str | None = None
    names_later: bool = False
    """Whether credentials are named, and judged, later."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused: the error that the caller gets, and the rule that says so."""

    rule: str
    error: str = FORBIDDEN
    retry_after: int | None = None
    """Whole seconds until it is allowed again; None if it never is."""
    key: str | None = None
    """The id of the grant whose key was presented, where there is one."""
    name: str | None = None
    authn: str | None = None
    """How the caller was authenticated; None if its key or certificate is not valid."""


class Fit(msgspec.Struct, frozen=True):
    """The deciding rule, counted from 1; or the test that the nearest rule failed."""

    rule: int | None
    failed: str | None = None
    reason: bool = False


def fit(rules: tuple[Rule, ...], request: Request) -> Fit:
    """Say which rule decides.

    A request for no particular credential (a list) needs no reason if any fitting rule needs none.
    Its answer then leaves out what the other rules allow.
    """
    furthest, wanting = 0, None
    for number, rule in enumerate(rules, 1):
        passed = _passed(rule, request)
        if passed == len(TESTS):
            if not rule.reason or request.names_later:
                return Fit(number)
            wanting = wanting or Fit(number, reason=True)
            if request.host is not None or request.operation not in _ON_CREDENTIALS:
                return wanting
        furthest = max(furthest, passed)
    return wanting or Fit(None, TESTS[furthest])


def _passed(rule: Rule, request: Request) -> int:
    """How many tests the rule passes, in order, before the first failed one."""
    if request.operation not in rule.allow:
        return 0
    if not _fits(request.host, rule.hosts):
        return 1
    if not _fits(request.purpose, rule.purposes):
        return 2
    if rule.networks and not _within(request.ip, rule.networks):
        return 3
    return len(TESTS)


def _fits(text: str | None, patterns: tuple[str, ...]) -> bool:
    return text is None or any(matches(pattern, text) for pattern in patterns)


def matches(pattern: str, text: str) -> bool:
    """Tell whether a pattern fits; `*` stands for any run of characters, all else for itself.

    Each piece between two stars is searched once, from the left, so no pattern is slow.
    """
    if ANY not in pattern:
        return pattern == text
    first, *middle, last = _pieces(pattern)
    if not text.startswith(first) or not text.endswith(last):
        return False
    start, end = len(first), len(text) - len(last)
    for piece in middle:
        found = text.find(piece, start, end)
        if found < 0:
            return False
        start = found + len(piece)
    return start <= end


@lru_cache(maxsize=8_192)
def _pieces(pattern: str) -> list[str]:
    return pattern.split(ANY)


def _within(ip: str | None, networks: tuple[str, ...]) -> bool:
    return ip is not None and any(_contains(network, ip) for network in networks)


@lru_cache(maxsize=8_192)
def _contains(network: str, ip: str) -> bool:
    return ipaddress.ip_address(ip) in ipaddress.ip_network(network)


def _check_network(text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(
            "networks: must be CIDRs without host bits, as in 10.1.0.0/16 or 2001:db8::/64"
        ) from None

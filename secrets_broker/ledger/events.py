"""Events, and the entry of an event: the bytes that a leaf of the tree hashes.

An entry is the canonical JSON of all fields of `Event`, null ones included, and nothing else.
It can be rebuilt from the columns of the event's row, which have the same names.
docs/format.md has the table of the fields and test vectors; event_types has the types.
"""

from datetime import datetime
from typing import Any, Final

import msgspec

from secrets_broker.ledger import event_types
from secrets_broker.ledger.encoding import canonical_json, json_problem
from secrets_broker.ledger.errors import FieldError, InvalidCommandError

FORMAT_VERSION = 1
MAX_ENTRY_BYTES = 65_535  # a length in an entry bundle has two bytes: C2SP tlog-tiles
MAX_DETAILS_BYTES = 16_384
MAX_NAME = 100
MAX_REASON = 500

IS_DISOWNED: Final = """EXISTS (
    SELECT FROM ledger.disowned AS d WHERE position BETWEEN d.first_position AND d.last_position)"""
"""SQL: an operator left the event out, because it was not made with the ledger's keys."""

NO_KEY: Final = "no_key"
TWO_KEYS: Final = "two_keys"
CERTIFICATE: Final = "certificate"


class BodyReference(msgspec.Struct, frozen=True):
    """Names the data key of a body, and the SHA-256 of its ciphertext in padded base64."""

    key: str
    sha256: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, without any secret. The position is the leaf's index, not a field."""

    v: int = FORMAT_VERSION
    type: str
    at: str
    occurred_at: str | None = None
    actor: str | None = None
    authn: str
    ip: str | None = None
    request_id: str | None = None
    reason: str | None = None
    host: str | None = None
    purpose: str | None = None
    credential_id: int | None = None
    version: int | None = None
    ok: bool = True
    error: str | None = None
    details: dict[str, Any] | None = None
    body: BodyReference | None = None


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller presents to authenticate itself; it is judged under the lock."""

    sha256: str | None = None
    """The SHA-256 of an access key, in hex."""
    well_formed: bool = True
    """Whether the key has the form of keys made here; any other hardly belongs to a grant."""
    certificate: str | None = None
    """The name in a client's certificate."""
    fingerprint: str | None = None
    """The certificate's own SHA-256, in hex."""
    not_after: datetime | None = None
    """The last moment at which the certificate is valid."""
    problem: str | None = None
    """Why there is nothing to judge: NO_KEY, TWO_KEYS, or CERTIFICATE (it names nobody)."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The caller, how it was authenticated, and its reason; one for all commands of a request."""

    actor: str | None
    authn: str
    ip: str | None = None
    request_id: str | None = None
    reason: str | None = None
    claim: str | None = None
    """The name that the caller claims, where its actor is proven or unknown."""
    subject: Subject | None = None
    """None for a caller that may do anything: it was authenticated without a grant."""


def encode_entry(event: Event) -> bytes:
    """The entry's bytes; raises InvalidCommandError past 65,535 of them."""
    entry = canonical_json(event)
    if len(entry) > MAX_ENTRY_BYTES:
        raise InvalidCommandError(FieldError("details", "make the entry too large"))
    return entry


def check_details(details: dict[str, Any]) -> dict[str, Any]:
    """Check details against the format; raises InvalidCommandError."""
    problem = json_problem(details) or _details_problem(details)
    if problem is None and len(canonical_json(details)) > MAX_DETAILS_BYTES:
        problem = "must be at most 16 KiB"
    if problem:
        raise InvalidCommandError(FieldError("details", problem))
    return details


def check_said(kind: str, details: dict[str, Any] | None, *, ok: bool) -> dict[str, Any] | None:
    """Check an event's details against the format and its type; raises InvalidCommandError."""
    if details is not None:
        check_details(details)
    if problem := event_types.problem_of(kind, details, ok=ok):
        raise InvalidCommandError(FieldError("details", problem))
    return details


def _details_problem(value: Any) -> str | None:
    match value:
        case float():
            return "must not contain a float"
        case dict():
            if not all(key.isascii() for key in value):
                return "must have ASCII keys"
            parts = list(value.values())
        case list():
            parts = value
        case _:
            return None
    return next((p for p in map(_details_problem, parts) if p), None)

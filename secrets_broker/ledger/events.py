"""Events, and the entry of an event: what a leaf of the tree is the hash of.

An entry is the canonical JSON of all fields of `Event`, null ones included, and of nothing
else. It can be made again from the columns of the event's row, which have the same names.
docs/format.md has the table of the fields and test vectors.
"""

from datetime import datetime
from typing import Any, Final

import msgspec

from secrets_broker.ledger.encoding import canonical_json, json_problem
from secrets_broker.ledger.errors import FieldError, InvalidCommandError

FORMAT_VERSION = 1
MAX_ENTRY_BYTES = 65_535  # an entry bundle gives a length two bytes: C2SP tlog-tiles
MAX_DETAILS_BYTES = 16_384
MAX_NAME = 100
MAX_REASON = 500

CREATED = "credential.created"
UPDATED = "credential.updated"
DELETED = "credential.deleted"
READ = "credential.read"
ERASED = "credential.erased"
REKEYED = "credential.rekeyed"
IMPORTED = "credential.imported"
ACCESS_IMPORTED = "access.imported"
KEY_ROTATION_STARTED = "key.rotation_started"
KEY_ROTATED = "key.rotated"
PROJECTION_REBUILT = "projection.rebuilt"
LEDGER_RESTORED = "ledger.restored"
LEDGER_AUTHENTICATED = "ledger.authenticated"
LEDGER_DISOWNED = "ledger.disowned"
ACCESS_DENIED = "access.denied"
ACCESS_COUNTING = "access.counting"
ACCESS_COUNTED = "access.counted"
ACCESS_KEY_GRANTED = "access_key.granted"
ACCESS_KEY_CHANGED = "access_key.changed"
ACCESS_KEY_ROTATED = "access_key.rotated"
ACCESS_KEY_REVOKED = "access_key.revoked"

CHANGES = frozenset({CREATED, UPDATED, DELETED, ERASED, REKEYED, IMPORTED})
"""The types that, where ok, change what a lookup finds."""

IS_CHANGE: Final = """ok AND type IN (
    'credential.created', 'credential.updated', 'credential.deleted', 'credential.erased',
    'credential.rekeyed', 'credential.imported')"""
"""The same to PostgreSQL; in these words an index, events_changes, is on them."""

IS_ACCESS_KEY: Final = """type IN (
    'access_key.granted', 'access_key.changed', 'access_key.rotated', 'access_key.revoked')"""
"""What changes who may do what; in these words an index, events_access_keys, is on them."""

IS_CONTROL: Final = """type IN (
    'access_key.granted', 'access_key.changed', 'access_key.rotated', 'access_key.revoked',
    'ledger.authenticated', 'ledger.disowned', 'ledger.restored')"""
"""The same, and what changes which events are believed; the index is events_control."""

ACCESS_KEY_EVENTS = frozenset(
    {ACCESS_KEY_GRANTED, ACCESS_KEY_CHANGED, ACCESS_KEY_ROTATED, ACCESS_KEY_REVOKED}
)

IS_DISOWNED: Final = """EXISTS (
    SELECT FROM ledger.disowned AS d WHERE position BETWEEN d.first_position AND d.last_position)"""
"""Whether an event is left out: it was not made with the ledger's keys, and a person said so."""

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
    """What a caller presents to prove who he is; what it is worth is judged under the lock."""

    sha256: str | None = None
    """Of an access key."""
    well_formed: bool = True
    """Whether the key has the form of those made here; what has not is hardly a grant's."""
    certificate: str | None = None
    """The name in a client's certificate."""
    fingerprint: str | None = None
    """The certificate's own SHA-256, in hex."""
    not_after: datetime | None = None
    """The last moment at which the certificate is valid."""
    problem: str | None = None
    """Why there is nothing to judge: NO_KEY, TWO_KEYS, or CERTIFICATE, which names nobody."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, how that is known, and why; the same for every command of one caller."""

    actor: str | None
    authn: str
    ip: str | None = None
    request_id: str | None = None
    reason: str | None = None
    claim: str | None = None
    """What a caller calls himself whose name is proven, or not known at all."""
    subject: Subject | None = None
    """None for a caller who may do anything: his door has proven him."""


def encode_entry(event: Event) -> bytes:
    """The entry's bytes; raises InvalidCommandError past 65,535 of them."""
    entry = canonical_json(event)
    if len(entry) > MAX_ENTRY_BYTES:
        raise InvalidCommandError(FieldError("details", "make the entry too large"))
    return entry


def check_details(details: dict[str, Any]) -> dict[str, Any]:
    """Hold details to the format; raises InvalidCommandError."""
    problem = json_problem(details) or _details_problem(details)
    if problem is None and len(canonical_json(details)) > MAX_DETAILS_BYTES:
        problem = "must be at most 16 KiB"
    if problem:
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

"""From an entry's bytes to what is checked about it beyond its hash.

An entry is decoded strictly, encoded again, and must come out as the same bytes.
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from secrets_broker.ledger.encoding import canonical_json, from_base64
from secrets_broker.ledger.errors import InvalidCommandError
from secrets_broker.ledger.event_types import CLAIM, WITH_DETAILS
from secrets_broker.ledger.events import FORMAT_VERSION, MAX_ENTRY_BYTES, check_details

_TIME: Final = re.compile(
    r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{6}Z",
    re.ASCII,
)
_NUL: Final = b"\\u0000"


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry's body: the data key's id, and the SHA-256 of the ciphertext."""

    key: str
    sha256: str


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The fields of an entry as docs/format.md lists them; no other, and none left out.

    In the order of their names, so that they are decoded and encoded as they stand.
    """

    actor: str | None
    at: str
    authn: str
    body: Reference | None
    credential_id: int | None
    details: dict[str, Any] | None
    error: str | None
    host: str | None
    ip: str | None
    occurred_at: str | None
    ok: bool
    purpose: str | None
    reason: str | None
    request_id: str | None
    type: str
    v: int
    version: int | None


class Fact(NamedTuple):
    """An event's facts for the credential histories: plain values, so that they travel cheaply."""

    position: int
    type: str
    host: str | None
    purpose: str | None
    credential_id: int | None
    version: int | None
    ok: bool
    error: str | None
    key: str | None
    details: dict[str, Any] | None


decode: Final[Callable[[bytes], Entry]] = msgspec.json.Decoder(Entry).decode
_encode_in_order: Final = msgspec.json.Encoder().encode


def encode(entry: Entry) -> bytes:
    """The entry's canonical JSON: without details, sorting would change nothing."""
    return _encode_in_order(entry) if entry.details is None else canonical_json(entry)


def problem_of(entry: Entry, raw: bytes) -> str | None:
    """Say what in an entry breaks the format, as far as it shows; None where nothing does.

    Not whether `at` is a time.
    """
    if entry.v != FORMAT_VERSION:
        return "its format version is not known"
    if entry.ok is not (entry.error is None):
        return "an event is either ok, or has an error"
    if entry.occurred_at is not None and not is_time(entry.occurred_at):
        return "occurred_at is not written as the format says"
    if len(raw) > MAX_ENTRY_BYTES:
        return "the entry is too long"
    if entry.body is not None and digest(entry.body) is None:
        return "its body names no SHA-256"
    if entry.details is not None and not _are_details(entry.details):
        return "its details are not such as the format allows"
    if _NUL in raw and any(isinstance(text, str) and "\x00" in text for text in _texts(entry)):
        return "a text has a U+0000"
    return None


def _are_details(details: dict[str, Any]) -> bool:
    try:
        check_details(details)
    except InvalidCommandError:
        return False
    return True


def is_time(text: str) -> bool:
    """Tell whether a time is written in the format's one form."""
    return _TIME.fullmatch(text) is not None


def digest(body: Reference) -> bytes | None:
    """The SHA-256 that an entry names; None where it is not one."""
    try:
        raw = from_base64(body.sha256) if len(body.sha256) == 44 else b""
    except ValueError:
        return None
    return raw if len(raw) == 32 else None


def fact(position: int, entry: Entry) -> tuple[Any, ...]:
    """What the checker needs of an entry: a Fact's fields, plain, as they travel."""
    body, kind = entry.body, entry.type
    return (
        position,
        kind,
        entry.host,
        entry.purpose,
        entry.credential_id,
        entry.version,
        entry.ok,
        entry.error,
        None if body is None else body.key,
        _followed(entry.details) if kind in WITH_DETAILS else None,
    )


def _followed(details: dict[str, Any] | None) -> dict[str, Any] | None:
    # An event of any type may have a claim, and nothing follows from it.
    if details is None or not isinstance(details.get(CLAIM), str):
        return details
    return {name: value for name, value in details.items() if name != CLAIM} or None


def _texts(entry: Entry) -> tuple[Any, ...]:
    return msgspec.structs.astuple(entry)

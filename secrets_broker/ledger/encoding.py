"""Canonical encodings: the bytes that are hashed, and the bytes that ciphertexts are bound to.

Entries, AADs and details are canonical JSON: keys sorted, no white space, UTF-8, only the
escapes of RFC 8785, and no floats, so that no two encoders differ. The fields that a lookup
serves may hold floats; they take RFC 8785 in full, which survives a trip through jsonb.
"""

import re
import unicodedata
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import rfc8785

_encoder = msgspec.json.Encoder(order="sorted")

MAX_SAFE_INTEGER: Final = 2**53 - 1  # RFC 7493 (I-JSON), section 2.2
MAX_DEPTH: Final = 64


def canonical_json(value: Any) -> bytes:
    """Encode a value without floats; its keys are ASCII, which sorts the same everywhere."""
    return _encoder.encode(value)


def full_canonical_json(value: Any) -> bytes:
    """RFC 8785 in full: floats as ECMAScript prints them, keys by UTF-16 code units."""
    return rfc8785.dumps(value)


def from_base64(text: str) -> bytes:
    """Decode canonical base64 (RFC 4648, section 4); raises ValueError.

    Padding is required, and its bits are zero (section 3.5): no other text has the same bytes.
    """
    raw = b64decode(text, validate=True)
    if b64encode(raw).decode() != text:
        raise ValueError("not canonical base64")
    return raw


def rfc3339(moment: datetime) -> str:
    """UTC, always six decimals, ends in Z: each time has exactly one text."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def rfc3339_or_none(moment: datetime | None) -> str | None:
    """As `rfc3339`; None for None."""
    return None if moment is None else rfc3339(moment)


def from_rfc3339(text: str) -> datetime:
    """The time of a text that `rfc3339` made, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def cut(text: str) -> str:
    """Cut a time's text to microseconds, without rounding.

    Rounded up, a time could pass a bound that it was before: the end of a year, for example.
    """
    return _FINER.sub("", text)


def text_problem(text: str) -> str | None:
    """Say why PostgreSQL or a JSON reader could not keep this text; None if it can."""
    if "\x00" in text:
        return "must not contain U+0000"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "must not contain a lone surrogate"
    return None


def label_problem(text: str, limit: int) -> str | None:
    """Say why a caller's name or reason must not be recorded; None if it may."""
    if len(text) > limit:
        return f"must have at most {limit} characters"
    if text.isascii() and text.isprintable():
        return None
    if any(unicodedata.category(character) == "Cc" for character in text):
        return "must not contain control characters"
    return text_problem(text)


# By code points, so that every version of Unicode and the API's description agree. These
# characters are invisible (categories Cc, Cf, Zl and Zp, and Default_Ignorable_Code_Point of
# DerivedCoreProperties.txt, Unicode 16.0): they make two names look alike, or change
# the direction of a line.
INVISIBLE: Final = (
    "\x00-\x1f\x7f-\x9f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160"
    "\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""The characters that no name may have, as the inside of a regular expression's class."""
SPACE: Final = " \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
"""White space of category Zs, likewise: a name may have it inside, but not at an end."""

_FINER: Final = re.compile(r"(?<=\.[0-9]{6})[0-9]+")

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_INVISIBLE: Final = re.compile(f"[{INVISIBLE}]")
_AT_AN_END: Final = re.compile(f"\\A[{SPACE}]|[{SPACE}]\\Z")


def name_problem(text: str) -> str | None:
    """Say why a text is unfit for a new name: people could misread it; None if it is fit."""
    if text.isascii() and text.isprintable() and text == text.strip():
        return None
    if _CONTROL.search(text):
        return "must not contain control characters"
    if _INVISIBLE.search(text):
        return "must not contain invisible characters, or ones that change the direction of a line"
    if _AT_AN_END.search(text):
        return "must not begin or end with white space"
    return None


def json_problem(value: Any, depth: int = 0) -> str | None:
    """Say why JSON readers could disagree about this value; None if they cannot.

    Numbers must be what a double holds exactly (RFC 7493, section 2.2). Nesting has at most 64
    levels, less than any reader's stack.
    """
    if depth > MAX_DEPTH:
        return f"must not be nested deeper than {MAX_DEPTH} levels"
    match value:
        case None | bool():
            return None
        case str():
            return text_problem(value)
        case int() | float():
            return number_problem(value)
        case dict():
            keys_ok = all(isinstance(key, str) for key in value)
            if not keys_ok:
                return "must have strings as keys"
            parts = [*value.keys(), *value.values()]
        case list():
            parts = value
        case _:
            return "must be JSON"
    problems = (json_problem(part, depth + 1) for part in parts)
    return next((problem for problem in problems if problem), None)


def number_problem(number: float) -> str | None:
    """Say why readers could disagree: beyond ±(2^53-1), not finite, or negative zero; else None."""
    if not -MAX_SAFE_INTEGER <= number <= MAX_SAFE_INTEGER:  # NaN fails this too
        return "must not contain a number beyond ±(2^53-1)"
    if number == 0 and str(number).startswith("-"):
        return "must not contain a negative zero"
    return None

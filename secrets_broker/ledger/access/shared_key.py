"""What a key that is shared as a text has to be like, and whether it looks guessable. Pure.

SECRETS_KMS_KEY, INTERNAL_KEY and AUDITOR_KEY come to a process as texts, by many ways: an
environment, a file, a form of some deployment tool. The same text has to come out of each, and the
same bytes have to come in with a header, whichever client sends it. So a key is of printable ASCII
alone, which every client sends alike (RFC 9110, section 5.5: new field values are of US-ASCII),
and nothing is around it that one way cuts off and another one keeps.
"""

import unicodedata
from typing import Final

from secrets_broker.ledger.access.entropy import bits
from secrets_broker.ledger.errors import UnfitKeyError

LEAST_BYTES: Final = 16
"""SP 800-131A, section 2: no less than 112 bits of strength; a byte of text has fewer than 8."""
GOOD_BYTES: Final = 32
GOOD_BITS: Final = 90
"""What is estimated below it, somebody may have thought of; what keygen prints has over 140."""

# Shown as nothing, and no white space by its category: U+034F, fillers of Hangul, the blank of
# Braille, and variation selectors (Unicode, section 5.21: default ignorable code points).
_INVISIBLE: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | frozenset(
    map(chr, range(0xFE00, 0xFE10))
)
_NOT_SEEN: Final = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})


def key_problem(key: str) -> str | None:
    """What rules a key out, in words that do not hold it; None where it is fit."""
    if key and (_is_blank(key[0]) or _is_blank(key[-1])):
        return "has white space, or a character that is not seen, at its beginning or its end"
    if any(unicodedata.category(c) == "Cc" for c in key):
        return "has a control character, which no HTTP header can carry"
    if not key.isascii():
        return "has a character that is not ASCII, which HTTP headers do not carry alike"
    if len(key) < LEAST_BYTES:
        return f"has {len(key)} bytes, and {LEAST_BYTES} is the least"
    return None


def key_warning(key: str) -> str | None:
    """What speaks against a fit key, in words that do not hold it; None where nothing does."""
    if len(key) < GOOD_BYTES:
        return f"is shorter than {GOOD_BYTES} bytes"
    return "looks guessable" if bits(key) < GOOD_BITS else None


def require_fit(name: str, key: str) -> str:
    """The key; raises UnfitKeyError, whose text says which command prints a fit one."""
    problem = key_problem(key)
    if problem:
        raise UnfitKeyError(f"{name} {problem}: {fresh(name)}")
    return key


def fresh(name: str) -> str:
    """How to come by another key, and what becomes of what this one opened."""
    line = f"print a fresh one with: secrets-broker keygen | grep '^{name}='"
    if name != "SECRETS_KMS_KEY":
        return line
    return (
        f"{line} - a ledger whose key it is opens as before once that is in "
        "SECRETS_KMS_KEY_PREVIOUS, byte for byte, until secrets-broker rotate-key is through"
    )


def _is_blank(character: str) -> bool:
    return (
        character.isspace()
        or character in _INVISIBLE
        or unicodedata.category(character) in _NOT_SEEN
    )

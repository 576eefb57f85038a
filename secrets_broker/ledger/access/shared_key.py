"""Rules for keys that are shared as texts, and whether one looks guessable. Pure.

SECRETS_KMS_KEY, INTERNAL_KEY and AUDITOR_KEY reach a process in many ways: an environment, a file,
a form of a deployment tool. Each way must deliver the same text, and every client must send the
same bytes in a header. So a key is printable ASCII (RFC 9110, section 5.5: new field values are
US-ASCII) without white space around it, which some ways cut off and others keep.
"""

import unicodedata
from typing import Final

from secrets_broker.ledger.access.entropy import bits
from secrets_broker.ledger.errors import UnfitKeyError

LEAST_BYTES: Final = 16
"""SP 800-131A, section 2: at least 112 bits of strength; a byte of text has fewer than 8."""
GOOD_BYTES: Final = 32
GOOD_BITS: Final = 90
"""Below this estimate a person may have chosen the key; keygen's have over 140."""

# Invisible, although their category is not white space: U+034F, fillers of Hangul, the blank of
# Braille, and variation selectors (Unicode, section 5.21: default ignorable code points).
_INVISIBLE: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | frozenset(
    map(chr, range(0xFE00, 0xFE10))
)
_INVISIBLE_CATEGORIES: Final = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})


def key_problem(key: str) -> str | None:
    """Why a key is unfit; None if it is fit. The text does not hold the key."""
    if key and (_is_blank(key[0]) or _is_blank(key[-1])):
        return "has white space, or an invisible character, at its beginning or its end"
    if any(unicodedata.category(c) == "Cc" for c in key):
        return "has a control character, which no HTTP header can carry"
    if not key.isascii():
        return "has a character that is not ASCII, which HTTP headers do not carry alike"
    if len(key) < LEAST_BYTES:
        return f"has {len(key)} bytes, and {LEAST_BYTES} is the least"
    return None


def key_warning(key: str) -> str | None:
    """A warning about a fit key, or None. The text does not hold the key."""
    if len(key) < GOOD_BYTES:
        return f"is shorter than {GOOD_BYTES} bytes"
    return "looks guessable" if bits(key) < GOOD_BITS else None


def require_fit(name: str, key: str) -> str:
    """Return the key; raises UnfitKeyError, whose text names the command that prints a fit one."""
    problem = key_problem(key)
    if problem:
        raise UnfitKeyError(f"{name} {problem}: {fresh(name)}")
    return key


def fresh(name: str) -> str:
    """How to get another key, and how to keep a ledger readable that uses this one."""
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
        or unicodedata.category(character) in _INVISIBLE_CATEGORIES
    )

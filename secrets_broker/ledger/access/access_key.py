"""Access keys: what a caller authenticates itself with, and what the ledger keeps of it.

A key is `sbk_`, 43 base62 characters, and six more with the CRC-32 of all before them. Prefix and
checksum let secret scanners find leaked keys with few false alarms. They admit or refuse nobody;
they only decide for which unknown key the grants are read again. The ledger keeps the SHA-256 of
the text.
"""

import secrets
import zlib
from hashlib import sha256
from typing import Final

PREFIX: Final = "sbk_"

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_CHARACTERS: Final = 43  # 62^43 > 2^256: NIST SP 800-57 part 1, table 2, a strength of 256
_CHECKSUM_CHARACTERS: Final = 6  # 62^6 > 2^32


def new_access_key() -> str:
    """A fresh key, from the system's random source."""
    drawn = secrets.randbelow(62**_SECRET_CHARACTERS)
    text = PREFIX + _base62(drawn, _SECRET_CHARACTERS)
    return text + _checksum(text)


def new_grant_id() -> str:
    """64 random bits in lower-case hex: a grant's id for ever."""
    return secrets.token_hex(8)


def digest(key: str) -> str:
    """What the ledger keeps of a key, in lower-case hex.

    Plain SHA-256, without salt or stretching: those protect what can be guessed, and 256 random
    bits cannot be guessed (NIST SP 800-63B, section 5.1.2.2: look-up secrets of 112 bits and more).
    """
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def is_well_formed(key: str) -> bool:
    """Tell whether prefix, length and checksum are those of an access key."""
    text, checksum = key[:-_CHECKSUM_CHARACTERS], key[-_CHECKSUM_CHARACTERS:]
    return (
        len(text) == len(PREFIX) + _SECRET_CHARACTERS
        and text.startswith(PREFIX)
        and all(character in _DIGITS for character in text[len(PREFIX) :])
        and checksum == _checksum(text)
    )


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode("ascii")), _CHECKSUM_CHARACTERS)


def _base62(number: int, length: int) -> str:
    characters = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        characters.append(_DIGITS[digit])
    return "".join(reversed(characters))

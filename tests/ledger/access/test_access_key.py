"""Access keys: recognisable, never the same twice, and kept as a hash only."""

import re
import zlib
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.access.access_key import PREFIX, digest, is_well_formed, new_access_key

# What a secret scanner is told to look for.
SCANNED = re.compile(r"\bsbk_[0-9A-Za-z]{49}\b")
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_a_key_is_found_by_a_scanner_and_has_a_right_checksum() -> None:
    """One regular expression finds it in a text; the checksum tells it from what looks like it."""
    key = new_access_key()
    assert SCANNED.findall(f"curl -H 'X-Internal-Key: {key}'") == [key]
    assert is_well_formed(key)
    value = 0
    for character in key[-6:]:
        value = value * 62 + DIGITS.index(character)
    assert value == zlib.crc32(key[:-6].encode())


def test_no_two_keys_are_the_same() -> None:
    """They are drawn, all 43 characters of them."""
    keys = [new_access_key() for _ in range(2_000)]
    assert len(set(keys)) == len(keys)
    assert {character for key in keys for character in key[len(PREFIX) : -6]} == set(DIGITS)


@given(st.integers(0, 52), st.sampled_from(DIGITS))
def test_a_key_with_one_character_changed_is_not_well_formed(place: int, other: str) -> None:
    """CRC-32 finds every change within 32 bits."""
    key = new_access_key()
    changed = key[:place] + other + key[place + 1 :]
    assert is_well_formed(changed) == (changed == key)


@given(st.text())
def test_what_is_kept_is_the_sha_256(key: str) -> None:
    """Of the text in UTF-8; of any text, since what a caller sends is any text."""
    assert digest(key) == sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    assert not is_well_formed(key)

"""Authenticated encryption: a round trip for anything, and nothing changed opens."""

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.encryption.envelope import (
    BODY,
    CANARY,
    DATA_KEY,
    NONCE_BYTES,
    PASSWORD,
    SECRET_DATA,
    TAG_BYTES,
    bind,
    seal,
    unseal,
)
from secrets_broker.ledger.errors import DecryptionError
from tests.ledger.helpers import texts

keys = st.binary(min_size=32, max_size=32)
places = st.lists(texts | st.integers(0, 2**53 - 1), max_size=4)


@given(keys, st.binary(max_size=200), places)
def test_round_trip(key: bytes, plain: bytes, place: list[str | int]) -> None:
    """What was sealed opens in its own place, with any key."""
    sealed = seal(AESGCM(key), plain, bind(PASSWORD, *place))
    assert unseal(AESGCM(key), sealed, bind(PASSWORD, *place)) == plain
    assert len(sealed) == NONCE_BYTES + len(plain) + TAG_BYTES


@given(keys, st.binary(max_size=60), st.data())
def test_any_changed_bit_is_refused(key: bytes, plain: bytes, data: st.DataObject) -> None:
    """A changed bit of nonce, ciphertext or tag is refused."""
    aad = bind(PASSWORD, "host")
    sealed = bytearray(seal(AESGCM(key), plain, aad))
    index = data.draw(st.integers(0, len(sealed) - 1))
    sealed[index] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DecryptionError):
        unseal(AESGCM(key), bytes(sealed), aad)


def test_every_byte_counts() -> None:
    """Each byte of a ciphertext, changed alone, is refused; so is each of the AAD."""
    cipher, aad = AESGCM(os.urandom(32)), bind(BODY, "host", 1)
    sealed = seal(cipher, b"secret", aad)
    for index in range(len(sealed)):
        changed = sealed[:index] + bytes([sealed[index] ^ 0x80]) + sealed[index + 1 :]
        with pytest.raises(DecryptionError):
            unseal(cipher, changed, aad)
    for index in range(len(aad)):
        changed = aad[:index] + bytes([aad[index] ^ 1]) + aad[index + 1 :]
        with pytest.raises(DecryptionError):
            unseal(cipher, sealed, changed)


@given(st.binary(max_size=60), st.integers(0, 200))
def test_a_cut_ciphertext_is_refused(plain: bytes, length: int) -> None:
    """A ciphertext that was cut off, down to nothing, is refused with the same error."""
    cipher = AESGCM(bytes(32))
    sealed = seal(cipher, plain, b"")
    with pytest.raises(DecryptionError):
        unseal(cipher, sealed[: min(length, len(sealed) - 1)], b"")


@given(places, places)
def test_another_place_is_refused(first: list[str | int], second: list[str | int]) -> None:
    """No two places have the same AAD, so that no ciphertext opens in another's."""
    assert (bind(BODY, *first) == bind(BODY, *second)) == (first == second)


@pytest.mark.parametrize("label", [SECRET_DATA, BODY, DATA_KEY, CANARY])
def test_another_label_is_refused(label: str) -> None:
    """A password's ciphertext opens as nothing else, even in the same place."""
    cipher = AESGCM(bytes(32))
    sealed = seal(cipher, b"secret", bind(PASSWORD, "host", 1))
    with pytest.raises(DecryptionError):
        unseal(cipher, sealed, bind(label, "host", 1))


@given(keys, keys)
def test_another_key_is_refused(first: bytes, second: bytes) -> None:
    """Only the key that sealed opens."""
    sealed = seal(AESGCM(first), b"secret", b"")
    if first == second:
        assert unseal(AESGCM(second), sealed, b"") == b"secret"
    else:
        with pytest.raises(DecryptionError):
            unseal(AESGCM(second), sealed, b"")


def test_nonces_do_not_repeat() -> None:
    """The same text sealed a thousand times has a thousand nonces."""
    cipher = AESGCM(bytes(32))
    nonces = {seal(cipher, b"secret", b"")[:NONCE_BYTES] for _ in range(1_000)}
    assert len(nonces) == 1_000


def test_the_error_holds_no_bytes() -> None:
    """What failed to open is neither in the error nor behind it."""
    sealed = seal(AESGCM(bytes(32)), b"secret", b"")
    with pytest.raises(DecryptionError) as caught:
        unseal(AESGCM(b"k" * 32), sealed, b"")
    assert sealed.hex() not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__

"""Keys: against other implementations, bound to their ids, and never printed."""

import shutil
import subprocess
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.encryption.envelope import seal, unseal
from secrets_broker.ledger.encryption.keyring import Kek, Keyring, derive_key
from secrets_broker.ledger.errors import DecryptionError, WrongKeyError

KMS_KEY = "a-test-key-that-opens-nothing-else"
# OpenSSL 3.0.19: openssl kdf -keylen 32 -kdfopt digest:SHA256
#   -kdfopt pass:a-test-key-that-opens-nothing-else -kdfopt salt:opsconductor-secrets-v1
#   -kdfopt iter:100000 PBKDF2
DERIVED = "45fc2c2de7b006217c659c805b10c719418aa40bccaecb3fefd6462d7049ce40"
KEK = Kek.from_bytes(bytes(range(32)))


def test_derived_key_is_openssls() -> None:
    """PBKDF2 gives what OpenSSL's command gave for the same key, salt and count."""
    assert derive_key(KMS_KEY).hex() == DERIVED


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@settings(max_examples=5)
@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1))
def test_derived_key_beside_openssl(kms_key: str) -> None:
    """For any key, PBKDF2 gives what the openssl command gives."""
    options = ["digest:SHA256", f"hexpass:{kms_key.encode().hex()}"]
    options += ["salt:opsconductor-secrets-v1", "iter:100000"]
    command = ["openssl", "kdf", "-keylen", "32"]
    for option in options:
        command += ["-kdfopt", option]
    done = subprocess.run([*command, "PBKDF2"], capture_output=True, text=True, check=True)
    assert derive_key(kms_key).hex() == done.stdout.strip().replace(":", "").lower()


@pytest.mark.parametrize(
    ("plain", "ciphertext", "tag"),
    [
        ("", "", "530f8afbc74536b9a963b4f1c4cb738b"),  # test case 13
        (  # test case 14
            "00000000000000000000000000000000",
            "cea7403d4d606b6e074ec5d3baf39d18",
            "d0d1c8a799996bf0265b98b5d48ab919",
        ),
    ],
)
def test_published_gcm_vectors(plain: str, ciphertext: str, tag: str) -> None:
    """AES-256-GCM opens McGrew and Viega's vectors: nonce || ciphertext || tag."""
    sealed = bytes(12) + bytes.fromhex(ciphertext + tag)
    assert unseal(AESGCM(bytes(32)), sealed, None).hex() == plain


def test_published_gcm_vector_with_aad() -> None:
    """Test case 16: with a key, a nonce and additional data that are not zero."""
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
    sealed = bytes.fromhex(
        "cafebabefacedbaddecaf888"
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )
    aad = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    assert unseal(AESGCM(key), sealed, aad).hex() == (
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )


def test_a_kek_has_one_id() -> None:
    """The id follows from the key alone, differs for another key, and is not the key."""
    assert Kek.from_bytes(bytes(range(32))).id == KEK.id
    assert Kek.from_bytes(bytes(32)).id != KEK.id
    assert KEK.id not in bytes(range(32)).hex()


@given(st.integers(1, 2**53 - 1))
def test_wrap_and_unwrap(credential_id: int) -> None:
    """A new data key, unwrapped, is the one that was ready to use."""
    stored, cipher = KEK.new_data_key(credential_id)
    assert stored.credential_id == credential_id
    sealed = seal(cipher, b"secret", b"")
    assert unseal(Keyring([KEK]).unwrap(stored), sealed, b"") == b"secret"


def test_a_wrapped_key_is_bound_to_its_ids() -> None:
    """A wrapped key opens under no other id and for no other credential."""
    keyring = Keyring([KEK])
    stored, _ = KEK.new_data_key(7)
    other, _ = KEK.new_data_key(7)
    flipped = bytes([stored.wrapped[0] ^ 1]) + stored.wrapped[1:]
    for changed in (
        replace(stored, id=other.id),
        replace(stored, credential_id=8),
        replace(stored, wrapped=other.wrapped),
        replace(stored, wrapped=flipped),
        replace(stored, kek="another"),
    ):
        with pytest.raises(DecryptionError):
            keyring.unwrap(changed)


def test_data_keys_do_not_repeat() -> None:
    """Each data key and each id is drawn anew, for the same credential too."""
    keys = [KEK.new_data_key(1) for _ in range(100)]
    assert len({stored.id for stored, _ in keys}) == 100
    sealed = seal(keys[0][1], b"secret", b"")
    with pytest.raises(DecryptionError):
        unseal(keys[1][1], sealed, b"")


def test_canary() -> None:
    """A canary opens with its own KEK only, and not once it was changed."""
    canary = KEK.canary()
    KEK.check_canary(canary)
    with pytest.raises(WrongKeyError):
        Kek.from_bytes(bytes(32)).check_canary(canary)
    with pytest.raises(WrongKeyError):
        KEK.check_canary(canary[:-1] + bytes([canary[-1] ^ 1]))


def test_a_keyring_has_what_it_was_given() -> None:
    """Its first KEK is the first given; another id is refused with the ids, never the keys."""
    other = Kek.from_bytes(bytes(32))
    keyring = Keyring([KEK, other])
    assert keyring.first is KEK
    assert list(keyring) == [KEK, other]
    assert keyring.require(other.id) is other
    assert keyring.get(None) is None
    with pytest.raises(WrongKeyError, match=KEK.id):
        keyring.require("another")


def test_a_key_that_is_no_text() -> None:
    """Bytes of an environment that are not UTF-8 are refused in words that do not repeat them."""
    with pytest.raises(WrongKeyError, match=r"^SECRETS_KMS_KEY is not UTF-8$"):
        Keyring.from_kms_keys("\udcff-not-utf8")


def test_repr_shows_no_key() -> None:
    """No key, wrapped or not, is in a repr, which ends in logs."""
    stored, _ = KEK.new_data_key(7)
    shown = f"{KEK!r} {stored!r} {Keyring([KEK])!r} {Keyring.from_kms_keys(KMS_KEY)!r}"
    assert KMS_KEY not in shown
    for secret in (bytes(range(32)), stored.wrapped, derive_key(KMS_KEY)):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown

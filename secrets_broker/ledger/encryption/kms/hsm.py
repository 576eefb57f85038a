"""PKCS#11: ``pkcs11:token=broker;object=kek?module-path=/usr/lib/softhsm/libsofthsm2.so``.

The URI is RFC 7512's (see pkcs11_url); the key is an AES key of 256 bits in the token. The PIN is
in a file that ``pin-source=file:/path`` names, else it is SECRETS_KMS_PIN.

A wrap is AES-GCM (CKM_AES_GCM, PKCS #11 v2.40 mechanisms, section 2.12), laid out as every other
ciphertext of the ledger: nonce[12] || ciphertext || tag[16].
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import pkcs11
from pkcs11 import (
    Attribute,
    GCMParams,
    KeyType,
    Mechanism,
    Object,
    ObjectClass,
    PKCS11Error,
    SecretKey,
    Token,
)

from secrets_broker.ledger.encryption.envelope import KEY_BYTES, NONCE_BYTES, TAG_BYTES
from secrets_broker.ledger.encryption.kms.hsm_advice import advice_on
from secrets_broker.ledger.encryption.kms.module_lock import hold_module_lock
from secrets_broker.ledger.encryption.kms.pkcs11_url import Pkcs11Url, parse
from secrets_broker.ledger.encryption.kms.provider import (
    binding,
    checked,
    failed,
    quoted,
    refused,
    unforeseen,
    unwrapped,
)
from secrets_broker.ledger.errors import DecryptionError, KmsError

# Modules' errors for a wrong tag; SoftHSM 2.6 has only the last. They count only from C_Decrypt,
# when token, PIN and key have proven good.
_REFUSALS: Final = (
    pkcs11.EncryptedDataInvalid,
    pkcs11.EncryptedDataLenRange,
    pkcs11.SignatureInvalid,
    pkcs11.GeneralError,
)


@runtime_checkable
class _Cipher(Protocol):
    """A key that CKA_ENCRYPT and CKA_DECRYPT allow: python-pkcs11 gives no other these methods."""

    def encrypt(self, data: bytes, /, **mechanism: object) -> bytes: ...

    def decrypt(self, data: bytes, /, **mechanism: object) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Hsm:
    """A key in a PKCS#11 token."""

    url: Pkcs11Url
    pin: str | None = field(repr=False)

    @property
    def id(self) -> str:
        """The URI without its query."""
        return self.url.id

    def wrap(self, key: bytes, kek_id: str) -> bytes:
        """Encrypt in the token, with a random nonce (SP 800-38D, 8.2.2); raises KmsError."""
        nonce, plain = os.urandom(NONCE_BYTES), checked(key)
        with self._token_key() as token_key:
            return nonce + token_key.encrypt(plain, **_gcm(nonce, kek_id))

    def unwrap(self, wrapped: bytes, kek_id: str) -> bytes:
        """Decrypt in the token; raises DecryptionError, KmsError."""
        if len(wrapped) != NONCE_BYTES + KEY_BYTES + TAG_BYTES:
            raise refused(self.id, "it has another length than a wrap has")
        nonce, sealed = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
        with self._token_key() as token_key:
            try:
                return unwrapped(self.id, token_key.decrypt(sealed, **_gcm(nonce, kek_id)))
            except _REFUSALS as error:
                raise refused(self.id, type(error).__name__) from None

    def close(self) -> None:
        """Nothing is held open between calls."""

    @contextmanager
    def _token_key(self) -> Iterator[_Cipher]:
        """The token's key in a session whose errors become ours."""
        pin = self._read_pin()
        try:
            with _initialised(self.url) as token, token.open(user_pin=pin) as session:
                # Run the search to its end: get_key breaks it off, and it would fail after
                # C_Finalize.
                yield self._only(list(session.get_objects(_key_attributes(self.url))))
        except (KmsError, DecryptionError):
            raise
        except PKCS11Error as error:
            name = type(error).__name__
            answer = f"{name}: {quoted(str(error), pin)}" if str(error) else name
            raise failed(self.id, answer, advice_on(name)) from None
        except OSError as error:
            name = type(error).__name__
            answer = f"{name}: {error.strerror or error}: {self.url.module}"
            raise failed(self.id, answer, advice_on(name)) from None
        except Exception as error:
            # Not an error of the library itself: its text may hold anything, so only its type is
            # told.
            raise unforeseen(self.id, error) from None

    def _only(self, found: list[Object]) -> _Cipher:
        if len(found) != 1:
            name = "MultipleObjectsReturned" if found else "NoSuchKey"
            raise failed(self.id, name, advice_on(name))
        return self._fit(found[0])

    def _fit(self, key: Object) -> _Cipher:
        bits = KEY_BYTES * 8
        if not isinstance(key, SecretKey) or (key.key_type, key.key_length) != (KeyType.AES, bits):
            raise failed(self.id, "another kind of key", f"an AES key of {bits} bits is needed")
        if not isinstance(key, _Cipher):
            raise failed(self.id, "the key may not be used", "set its CKA_ENCRYPT and CKA_DECRYPT")
        return key

    def _read_pin(self) -> str:
        if self.url.pin_file is None and self.pin:
            return self.pin
        if self.url.pin_file is None:
            raise failed(self.id, "no PIN", "name a file by pin-source, or set SECRETS_KMS_PIN")
        try:
            return self.url.pin_file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise failed(
                self.id, f"pin-source: {type(error).__name__}", "let the service read this file"
            ) from None


def open_hsm(url: str, pin: str | None) -> Hsm:
    """Read the URI of this module's docstring; raises KmsUrlError."""
    return Hsm(parse(url), pin)


@contextmanager
def _initialised(url: Pkcs11Url) -> Iterator[Token]:
    """The token of a module that is initialised for this call only.

    A child process must initialise a module itself (PKCS #11 v2.40 base, section 5.4). Nothing is
    left initialised, so a child inherits nothing. C_Finalize also closes the
    session that python-pkcs11 leaves open after a login that failed.
    """
    with hold_module_lock(url.module):
        library = pkcs11.lib(str(url.module))
        try:
            yield library.get_token(**_token_attributes(url))
        finally:
            library.finalize()


def _token_attributes(url: Pkcs11Url) -> dict[str, str | bytes]:
    label, serial = url.text("token"), url.octets("serial")
    return ({"token_label": label} if label else {}) | ({"token_serial": serial} if serial else {})


def _key_attributes(url: Pkcs11Url) -> dict[Attribute, object]:
    wanted = {Attribute.LABEL: url.text("object"), Attribute.ID: url.octets("id")}
    named = {name: value for name, value in wanted.items() if value is not None}
    return {Attribute.CLASS: ObjectClass.SECRET_KEY, **named}


def _gcm(nonce: bytes, kek_id: str) -> dict[str, object]:
    parameters = GCMParams(nonce, binding(kek_id), TAG_BYTES * 8)
    return {"mechanism": Mechanism.AES_GCM, "mechanism_param": parameters}

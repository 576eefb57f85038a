"""Keys: a KEK wraps data keys (DEKs), a DEK encrypts what belongs to one credential.

The terms are those of NIST SP 800-57. The database says which KEK is active; a keyring only holds
those that this process was given. A wrapped DEK is bound to its own id and its credential's, never
to the KEK's id: a rotation wraps it again and changes no event.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from secrets_broker.ledger.encryption.envelope import (
    CANARY,
    DATA_KEY,
    KEY_BYTES,
    bind,
    seal,
    unseal,
)
from secrets_broker.ledger.errors import DecryptionError, WrongKeyError

ENVIRONMENT: Final = "environment"

# The values of ledger.keks.state, in order.
PREPARED: Final = "prepared"
ACTIVE: Final = "active"
RETIRING: Final = "retiring"
RETIRED: Final = "retired"

# RFC 8018, section 5.2. Salt and count are fixed by the format: one key, one KEK, on every
# machine. That is enough only for a key of 256 random bits, as `keygen` makes.
_SALT: Final = b"opsconductor-secrets-v1"
_ITERATIONS: Final = 100_000

# RFC 5869, section 2.3, with its own info: the id says nothing about the KEK.
_ID_INFO: Final = b"secrets-broker/v1/kek-id"
_ID_BYTES: Final = 16

_CANARY_TEXT: Final = b"secrets-broker canary"


@dataclass(frozen=True, slots=True)
class DataKey:
    """A DEK as stored: wrapped under the KEK that it names."""

    id: str
    credential_id: int
    kek: str
    wrapped: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Kek:
    """A key-encryption key, held in memory only."""

    id: str
    provider: str
    cipher: AESGCM = field(repr=False)

    @classmethod
    def from_bytes(cls, key: bytes, provider: str = ENVIRONMENT) -> "Kek":
        """Make a KEK of 32 bytes; its id follows from it."""
        kek_id = HKDFExpand(SHA256(), _ID_BYTES, _ID_INFO).derive(key).hex()
        return cls(kek_id, provider, AESGCM(key))

    @classmethod
    def random(cls, provider: str) -> tuple["Kek", bytes]:
        """Make a KEK of 32 random bytes; return both, since the provider wraps the bytes."""
        key = os.urandom(KEY_BYTES)
        return cls.from_bytes(key, provider), key

    def canary(self) -> bytes:
        """Seal a known text, which shows later whether a key is the right one."""
        return seal(self.cipher, _CANARY_TEXT, bind(CANARY, self.id))

    def check_canary(self, canary: bytes) -> None:
        """Raise WrongKeyError if the canary is not this KEK's."""
        try:
            unseal(self.cipher, canary, bind(CANARY, self.id))
        except DecryptionError:
            raise WrongKeyError("the canary in ledger.keks does not open with this key") from None

    def new_data_key(self, credential_id: int) -> tuple[DataKey, AESGCM]:
        """Make a DEK for a credential: as it is stored, and ready to use."""
        key_id, dek = os.urandom(16).hex(), os.urandom(KEY_BYTES)
        return self.wrap(key_id, credential_id, dek), AESGCM(dek)

    def wrap(self, key_id: str, credential_id: int, dek: bytes) -> DataKey:
        """Wrap a DEK, bound to its id and its credential's."""
        wrapped = seal(self.cipher, dek, bind(DATA_KEY, key_id, credential_id))
        return DataKey(key_id, credential_id, self.id, wrapped)

    def unwrap(self, key: DataKey) -> bytes:
        """Open a DEK that is wrapped under this KEK; raises DecryptionError."""
        return unseal(self.cipher, key.wrapped, bind(DATA_KEY, key.id, key.credential_id))


def derive_key(kms_key: str) -> bytes:
    """PBKDF2-HMAC-SHA256 of SECRETS_KMS_KEY: 32 bytes, about 30 ms.

    Raises WrongKeyError if it is not UTF-8, which an environment does not guarantee.
    """
    try:
        given = kms_key.encode("utf-8")
    except UnicodeEncodeError:
        raise WrongKeyError("SECRETS_KMS_KEY is not UTF-8") from None
    return PBKDF2HMAC(SHA256(), KEY_BYTES, _SALT, _ITERATIONS).derive(given)


def _missing(kek_id: str, state: str, held: tuple[str, ...]) -> str:
    at_hand = f"at hand is {', '.join(held)}" if held else "none is at hand"
    if state == RETIRING:
        return (
            f"a rotation is not over: the database's retiring KEK is {kek_id}, {at_hand}. "
            "Put its key into SECRETS_KMS_KEY_PREVIOUS until it is"
        )
    return (
        "SECRETS_KMS_KEY is not the key of this ledger: "
        f"the database's {state} KEK is {kek_id}, {at_hand}"
    )


class Keyring:
    """The KEKs that this process was given, by id."""

    def __init__(self, keks: Iterable[Kek]) -> None:
        self._keks = {kek.id: kek for kek in keks}

    @classmethod
    def from_kms_keys(cls, *kms_keys: str) -> "Keyring":
        """The environment provider's keyring: one KEK for each key."""
        return cls(Kek.from_bytes(derive_key(key)) for key in kms_keys)

    def __bool__(self) -> bool:
        """Whether it holds any KEK."""
        return bool(self._keks)

    def __iter__(self) -> Iterator[Kek]:
        """The KEKs, in the order given."""
        return iter(self._keks.values())

    @property
    def first(self) -> Kek:
        """The KEK that a new ledger begins with."""
        return next(iter(self._keks.values()))

    def get(self, kek_id: str | None) -> Kek | None:
        """The KEK of this id, or None if this process lacks it."""
        return self._keks.get(kek_id) if kek_id is not None else None

    def add(self, kek: Kek) -> None:
        """Add a KEK that a provider unwrapped."""
        self._keks[kek.id] = kek

    def require(self, kek_id: str, state: str = "active") -> Kek:
        """The KEK of this id; raises WrongKeyError if this process lacks it."""
        kek = self._keks.get(kek_id)
        if kek is None:
            raise WrongKeyError(_missing(kek_id, state, tuple(self._keks)))
        return kek

    def unwrap(self, key: DataKey) -> AESGCM:
        """Open a DEK; raises DecryptionError if its KEK is missing or the wrap was changed."""
        kek = self.get(key.kek)
        if kek is None:
            raise DecryptionError("the data key is wrapped under a KEK that is not at hand")
        return AESGCM(kek.unwrap(key))

"""The interface of a KMS provider, and its errors.

A provider wraps the KEK, 32 bytes, with a key that never leaves the KMS or token. It is called at a
service's start and in a rotation, never in a lookup: the unwrapped KEK stays in memory. Every wrap
is bound to the KEK's id, so that no wrap can take another's place. After unwrapping, the id is also
checked against the key (see keyring.Kek).
"""

from base64 import b64encode
from typing import Final, Protocol

from secrets_broker.ledger.encryption.envelope import KEK, KEY_BYTES, bind
from secrets_broker.ledger.errors import DecryptionError, KmsError

# Enough for any useful answer; a proxy's error page is longer.
_ANSWER_CHARACTERS: Final = 300
_WITHHELD: Final = "(its answer repeats a secret and is not shown)"


class Provider(Protocol):
    """A key in a key management service, which wraps and unwraps a KEK."""

    @property
    def id(self) -> str:
        """The provider and its key, as stored beside each wrap; no secret.

        Raises KmsError if only the service knows it and does not answer.
        """

    def wrap(self, key: bytes, kek_id: str) -> bytes:
        """Encrypt a KEK of 32 bytes, bound to its id; raises KmsError."""

    def unwrap(self, wrapped: bytes, kek_id: str) -> bytes:
        """Decrypt what `wrap` made for this id: 32 bytes.

        Raises DecryptionError if the service refuses the wrap itself (another key, another id,
        any changed byte), and KmsError for any other failure.
        """

    def close(self) -> None:
        """Close what is open."""


def binding(kek_id: str) -> bytes:
    """The AAD of a wrap, in the form that format.md gives for other ciphertexts."""
    return bind(KEK, kek_id)


def checked(key: bytes) -> bytes:
    """Return the KEK to wrap; raises ValueError if it is not 32 bytes."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a KEK has {KEY_BYTES} bytes")
    return key


def unwrapped(provider_id: str, key: bytes) -> bytes:
    """Return the KEK that a service answered; raises DecryptionError if it cannot be one."""
    if len(key) != KEY_BYTES:
        raise refused(provider_id, f"what was wrapped is not a key of {KEY_BYTES} bytes")
    return key


def failed(provider_id: str, answer: str, advice: str) -> KmsError:
    """The error for a failed call: what the service answered, and what to do."""
    return KmsError(f"{provider_id}: {answer}; {advice}")


def refused(provider_id: str, answer: str) -> DecryptionError:
    """The error for a wrap that the service refuses: not of this key, or not for this KEK."""
    return DecryptionError(
        f"{provider_id}: the wrapped KEK does not open with this key for this KEK id, "
        f"or was changed: {answer}"
    )


def unforeseen(provider_id: str, error: Exception) -> KmsError:
    """An unforeseen library error: only its type, since its text may hold anything."""
    return failed(
        provider_id,
        f"unexpected {type(error).__module__}.{type(error).__qualname__}",
        "this is a fault of the provider's library or of how it is used here",
    )


def quoted(answer: str, *secrets: bytes | str | None) -> str:
    """A service's answer in one cut line; withheld if it repeats a secret in any spelling."""
    spellings = (spelling for secret in secrets if secret for spelling in _spellings(secret))
    if any(spelling in answer for spelling in spellings):
        return _WITHHELD
    line = " ".join("".join(c if c.isprintable() else " " for c in answer).split())
    return line if len(line) <= _ANSWER_CHARACTERS else line[:_ANSWER_CHARACTERS] + "…"


def _spellings(secret: bytes | str) -> tuple[str, ...]:
    raw = secret.encode() if isinstance(secret, str) else secret
    text = secret if isinstance(secret, str) else repr(secret)[2:-1]
    encoded = b64encode(raw).decode()
    return text, encoded.rstrip("="), raw.hex(), raw.hex().upper()

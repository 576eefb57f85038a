"""What a KMS provider is, and how its failures are told.

A provider wraps the one KEK, 32 bytes, with a key that never leaves a service or a token. It is
called when the service starts and in a rotation, never in a lookup: the unwrapped KEK stays in
memory. Every wrap is bound to the KEK's id, so that one wrap cannot be put in another's place;
whoever unwraps checks besides that the key has this id (see keyring.Kek).
"""

from base64 import b64encode
from typing import Final, Protocol

from secrets_broker.ledger.encryption.envelope import KEK, KEY_BYTES, bind
from secrets_broker.ledger.errors import DecryptionError, KmsError

# Enough for the longest answer that says something; a proxy's error page is longer.
_ANSWER_CHARACTERS: Final = 300
_WITHHELD: Final = "(its answer repeats a secret and is not shown)"


class Provider(Protocol):
    """A key in a key management service, which wraps and unwraps a KEK."""

    @property
    def id(self) -> str:
        """The provider and its key, as stored beside each wrap; no secret.

        Raises KmsError where only the service can tell and does not.
        """

    def wrap(self, key: bytes, kek_id: str) -> bytes:
        """Encrypt a KEK of 32 bytes, bound to its id; raises KmsError."""

    def unwrap(self, wrapped: bytes, kek_id: str) -> bytes:
        """Decrypt what `wrap` made for this id: 32 bytes.

        Raises DecryptionError where the service refuses the wrap itself (another key, another
        id, any changed byte), and KmsError where it did not get as far.
        """

    def close(self) -> None:
        """Let go of what is held open."""


def binding(kek_id: str) -> bytes:
    """The additional authenticated data of a wrap, as format.md has it for other ciphertexts."""
    return bind(KEK, kek_id)


def checked(key: bytes) -> bytes:
    """The KEK that is to be wrapped; raises ValueError where it is not 32 bytes."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a KEK has {KEY_BYTES} bytes")
    return key


def unwrapped(provider_id: str, key: bytes) -> bytes:
    """The KEK that a service answered with; raises DecryptionError where it cannot be one."""
    if len(key) != KEY_BYTES:
        raise refused(provider_id, f"what was wrapped is not a key of {KEY_BYTES} bytes")
    return key


def failed(provider_id: str, answer: str, advice: str) -> KmsError:
    """The service did not do it: what it answered, and what to do."""
    return KmsError(f"{provider_id}: {answer}; {advice}")


def refused(provider_id: str, answer: str) -> DecryptionError:
    """The service works, and says that this is no wrap of its key for this KEK."""
    return DecryptionError(
        f"{provider_id}: the wrapped KEK does not open with this key for this KEK id, "
        f"or was changed: {answer}"
    )


def unforeseen(provider_id: str, error: Exception) -> KmsError:
    """A library's error that nobody thought of: only its type, as its text may hold anything."""
    return failed(
        provider_id,
        f"unexpected {type(error).__module__}.{type(error).__qualname__}",
        "this is a fault of the provider's library or of how it is used here",
    )


def quoted(answer: str, *secrets: bytes | str | None) -> str:
    """A service's words in one line, cut; withheld where they repeat a secret in any spelling."""
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

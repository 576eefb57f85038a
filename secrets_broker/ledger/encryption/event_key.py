"""Event keys: they make the MACs of events, and are stored wrapped under a KEK.

The tree proves that nothing was changed since it was signed, but not who appended. A MAC proves
that, since only a holder of the KEK can open its key. The MAC stands beside the entry and is not
part of it, so leaves and checkpoints are the same with and without it.
"""

import hmac
import os
from dataclasses import dataclass, field
from typing import Final

from secrets_broker.ledger.encryption.envelope import EVENT_KEY, KEY_BYTES, bind, seal, unseal
from secrets_broker.ledger.encryption.keyring import Kek

# HMAC-SHA256 (RFC 2104, FIPS 198-1): a key as long as the hash, a tag of the full 256 bits.
_HASH: Final = "sha256"
MAC_BYTES: Final = 32
LEDGER_ID_BYTES: Final = 16
NO_MAC: Final = bytes(MAC_BYTES)
"""Stands for the previous event's MAC if that event has none."""
_LABEL: Final = b"secrets-broker/v1/event-mac"


@dataclass(frozen=True, slots=True)
class WrappedEventKey:
    """An event key as stored: wrapped under the KEK that it names."""

    id: str
    kek: str
    wrapped: bytes = field(repr=False)
    from_position: int
    """The position of the event that names the key, whose MAC is the first made with it."""


@dataclass(frozen=True, slots=True)
class EventKey:
    """An event key of one ledger, ready to use."""

    ledger: str
    """The ledger's id, 128 random bits in hex: events of another ledger do not fit."""
    id: str
    key: bytes = field(repr=False)
    _begun: hmac.HMAC = field(init=False, repr=False, compare=False)
    """The common beginning of all MACs, so that the key is set up once (RFC 2104, 4)."""

    def __post_init__(self) -> None:
        begun = hmac.new(self.key, _LABEL + bytes.fromhex(self.ledger), _HASH)
        object.__setattr__(self, "_begun", begun)

    @classmethod
    def random(cls, ledger: str) -> "EventKey":
        """Draw a fresh one."""
        return cls(ledger, os.urandom(16).hex(), os.urandom(KEY_BYTES))

    def mac(self, position: int, leaf: bytes, before: bytes) -> bytes:
        """The MAC of an event: over its position, its leaf, and the MAC of the event before.

        The chain keeps out events of a timeline that a restore lost. Every part has a fixed
        length, so different inputs are different bytes.
        """
        mac = self._begun.copy()
        mac.update(position.to_bytes(8, "big") + leaf + before)
        return mac.digest()

    def fits(self, mac: bytes | None, position: int, leaf: bytes, before: bytes) -> bool:
        """Whether the MAC is this event's; compares in constant time."""
        return mac is not None and hmac.compare_digest(mac, self.mac(position, leaf, before))

    def wrap(self, kek: Kek, from_position: int) -> WrappedEventKey:
        """Wrap it, bound to its ledger, its id and its first position."""
        wrapped = seal(kek.cipher, self.key, _place(self.ledger, self.id, from_position))
        return WrappedEventKey(self.id, kek.id, wrapped, from_position)


def unwrap(kek: Kek, ledger: str, stored: WrappedEventKey) -> EventKey:
    """Open a key that is wrapped under this KEK; raises DecryptionError."""
    place = _place(ledger, stored.id, stored.from_position)
    return EventKey(ledger, stored.id, unseal(kek.cipher, stored.wrapped, place))


def new_ledger_id() -> str:
    """128 random bits in hex."""
    return os.urandom(LEDGER_ID_BYTES).hex()


def _place(ledger: str, key_id: str, from_position: int) -> bytes:
    return bind(EVENT_KEY, ledger, key_id, from_position)

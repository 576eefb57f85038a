"""ledger.keks: which KEKs there are, and how a process gets those of a KMS.

A KEK of the environment is derived from its key and stored nowhere. A KEK of a KMS is random, and
stored as its provider wrapped it. A process has the provider unwrap it once, and keeps it in
memory.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.encryption.keyring import ACTIVE, PREPARED, RETIRING, Kek, Keyring
from secrets_broker.ledger.encryption.kms.provider import Provider
from secrets_broker.ledger.errors import WrongKeyError

_NOT_RETIRED: Final = """
    SELECT id, provider, state, canary, wrapped FROM ledger.keks
    WHERE state <> 'retired' ORDER BY created_at
"""
_USES: Final = """
    SELECT kek.id, kek.provider, kek.state, count(data_key.id),
           (SELECT count(*) FROM ledger.event_keys AS event_key WHERE event_key.kek = kek.id)
    FROM ledger.keks AS kek LEFT JOIN ledger.data_keys AS data_key ON data_key.kek = kek.id
    GROUP BY kek.id ORDER BY kek.created_at
"""
_REGISTER_FIRST: Final = "SELECT ledger.register_first_kek(%s, %s, %s, %s)"


@dataclass(frozen=True, slots=True)
class StoredKek:
    """A row of ledger.keks."""

    id: str
    provider: str
    state: str
    canary: bytes = field(repr=False)
    wrapped: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class KekUse:
    """A KEK and how many keys are wrapped under it."""

    id: str
    provider: str
    state: str
    data_keys: int
    event_keys: int = 0

    @property
    def is_needed(self) -> bool:
        """Whether any key is wrapped under it."""
        return bool(self.data_keys or self.event_keys)


@dataclass(frozen=True, slots=True)
class NewKek:
    """A KEK, and how to store it: as its provider wrapped it, or not at all."""

    kek: Kek
    wrapped: bytes | None = field(default=None, repr=False)

    @property
    def row(self) -> tuple[str, str, bytes, bytes | None]:
        """Id, provider, canary and wrapped form, as ledger.keks has them."""
        return self.kek.id, self.kek.provider, self.kek.canary(), self.wrapped

    @classmethod
    def wrapped_by(cls, provider: Provider) -> "NewKek":
        """Make a random KEK, wrapped by this provider; raises KmsError."""
        kek, key = Kek.random(provider.id)
        return cls(kek, provider.wrap(key, kek.id))


async def stored_keks(connection: AsyncConnection[Any]) -> list[StoredKek]:
    """The KEKs that are not retired, oldest first."""
    cursor = await connection.execute(_NOT_RETIRED)
    return [StoredKek(*row) for row in await cursor.fetchall()]


async def uses(connection: AsyncConnection[Any]) -> tuple[KekUse, ...]:
    """How many data keys each KEK wraps, oldest first."""
    cursor = await connection.execute(_USES)
    return tuple(KekUse(*row) for row in await cursor.fetchall())


async def check_keys(
    connection: AsyncConnection[Any], keyring: Keyring, providers: Sequence[Provider] = ()
) -> None:
    """Check the canary of each KEK that data keys may be wrapped under.

    An empty ledger gets a KEK of the first provider, or else the keyring's first. KEKs that a
    provider unwraps are added to the keyring.

    Raises WrongKeyError if a KEK is missing, KmsError if a provider does not unwrap it.
    """
    stored = await stored_keks(connection)
    if not stored and (first := await _first(keyring, providers)):
        await connection.execute(_REGISTER_FIRST, first.row)
        stored = await stored_keks(connection)  # another process may have registered its KEK first
    await fetch(stored, keyring, providers)
    if not any(kek.state == ACTIVE for kek in stored):
        raise WrongKeyError("ledger.keks has no active KEK")
    check_canaries(stored, keyring)


def check_canaries(stored: Iterable[StoredKek], keyring: Keyring) -> None:
    """Raise WrongKeyError if a KEK that wraps data keys is missing, or differs."""
    for kek in stored:
        if kek.state != PREPARED:
            keyring.require(kek.id, kek.state).check_canary(kek.canary)


async def next_kek(
    connection: AsyncConnection[Any], keyring: Keyring, provider: Provider
) -> NewKek:
    """The KEK to rotate to: that of an unfinished rotation, or a new one.

    Raises KmsError or DecryptionError.
    """
    stored = await stored_keks(connection)
    await fetch(stored, keyring, [provider])
    provider_id = await asyncio.to_thread(lambda: provider.id)
    unfinished = any(u.state == RETIRING for u in await uses(connection))
    for kek in stored:
        resumed = kek.state == PREPARED or (kek.state == ACTIVE and unfinished)
        if resumed and kek.provider == provider_id:
            return NewKek(keyring.require(kek.id, kek.state), kek.wrapped)
    return await asyncio.to_thread(NewKek.wrapped_by, provider)


async def fetch(
    stored: Iterable[StoredKek], keyring: Keyring, providers: Sequence[Provider]
) -> None:
    """Have the providers unwrap what the keyring lacks; raises KmsError or DecryptionError."""
    for kek in stored:
        if kek.wrapped is not None and keyring.get(kek.id) is None:
            found = await asyncio.to_thread(_unwrap, kek, kek.wrapped, providers)
            if found:
                keyring.add(found)


async def _first(keyring: Keyring, providers: Sequence[Provider]) -> NewKek | None:
    if providers:
        return await asyncio.to_thread(NewKek.wrapped_by, providers[0])
    return NewKek(keyring.first) if keyring else None


def _unwrap(stored: StoredKek, wrapped: bytes, providers: Sequence[Provider]) -> Kek | None:
    for provider in providers:
        if provider.id == stored.provider:
            kek = Kek.from_bytes(provider.unwrap(wrapped, stored.id), provider.id)
            if kek.id != stored.id:
                raise WrongKeyError(f"{provider.id} unwrapped another KEK than {stored.id}")
            return kek
    return None

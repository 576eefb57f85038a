"""Rotation: wraps every data key under another KEK, while the services serve.

1. Prepare: a KEK that a KMS wraps is stored. Running services get time to fetch it before anything
   is wrapped under it.
2. Start: under the ledger's lock the new KEK becomes active, with `key.rotation_started`. From here
   on every process wraps new data keys under it.
3. Re-wrap: first the event keys, then the data keys in chunks, one transaction each. No event
   changes.
4. Finish: `key.rotated`, and the KEKs that wrap nothing are retired.

Each step finds what an earlier run left, so running it again continues a rotation that died. Terms
and states are those of NIST SP 800-57 part 1, sections 5.3 and 7.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import errors

from secrets_broker.ledger.commands import Record
from secrets_broker.ledger.database.round_trip import Statement
from secrets_broker.ledger.encryption.event_key import WrappedEventKey, unwrap
from secrets_broker.ledger.encryption.keks import (
    KekUse,
    NewKek,
    check_canaries,
    next_kek,
    stored_keks,
    uses,
)
from secrets_broker.ledger.encryption.keyring import ACTIVE, PREPARED, RETIRED, DataKey, Keyring
from secrets_broker.ledger.encryption.kms.provider import Provider
from secrets_broker.ledger.errors import DecryptionError, LedgerError, RotationRefusedError
from secrets_broker.ledger.event_types import KEY_ROTATED, KEY_ROTATION_STARTED
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.scheduling.advisory_lock import take_advisory_lock
from secrets_broker.ledger.store import Store
from secrets_broker.ledger.transactions import Transactions

# A chunk takes two milliseconds. Larger ones are hardly faster, and delay lookups.
CHUNK: Final = 100
DEADLOCK_ATTEMPTS: Final = 5  # an erasure may hold the same keys, in another order

_PREPARE: Final = "SELECT ledger.prepare_kek(%s, %s, %s, %s)"
_CHUNK: Final = """
    SELECT id, credential_id, kek, wrapped FROM ledger.data_keys
    WHERE id > %s AND kek <> %s ORDER BY id LIMIT %s
"""
_REWRAP: Final = "SELECT ledger.rewrap_data_keys(%b, %b, %b)"
_EVENT_KEYS: Final = """
    SELECT id, kek, wrapped, from_position FROM ledger.event_keys WHERE kek <> %s ORDER BY id
"""
_REWRAP_EVENT_KEYS: Final = "SELECT ledger.rewrap_event_keys(%b, %b, %b)"
_NAME_OF: Final = "SELECT host, purpose FROM ledger.events WHERE credential_id = %s AND ok LIMIT 1"
Progress = Callable[[int, int], None]
"""Called with the number of re-wrapped data keys, and of all."""


@dataclass(frozen=True, slots=True)
class Unwrappable:
    """A data key that does not open, because its wrap was changed. It stays as it is."""

    data_key: str
    credential_id: int
    host: str | None
    purpose: str | None


@dataclass(frozen=True, slots=True)
class RotationReport:
    """The result of a rotation."""

    kek: str
    """The KEK that data keys are wrapped under now."""
    rewrapped: int
    keks: tuple[KekUse, ...]
    unwrappable: tuple[Unwrappable, ...]
    retired: tuple[str, ...]


async def rotate(
    store: Store,
    keyring: Keyring,
    to: NewKek | Provider,
    context: Context,
    *,
    progress: Progress = lambda _done, _total: None,
    settle_seconds: float = 0,
    chunk: int = CHUNK,
) -> RotationReport:
    """Re-wrap every data key; `to` a KEK, or to one that a provider wraps.

    The store's login owns the ledger; the keyring holds every KEK that is in use. Services have
    `settle_seconds` to fetch a provider's KEK. Raises RotationRefusedError, WrongKeyError,
    BusyError or KmsError before anything is touched; after them, or after psycopg.Error, it can
    be run again.
    """
    connection = store.connection
    await take_advisory_lock(connection, "rotate-key")
    stored = await stored_keks(connection)
    check_canaries(stored, keyring)
    if not stored:
        raise RotationRefusedError("the ledger has no KEK yet: start the service first")
    new = to if isinstance(to, NewKek) else await next_kek(connection, keyring, to)
    keyring.add(new.kek)
    return await _Rotation(store, keyring, new, context, progress, chunk).run(settle_seconds)


class _Rotation:
    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        new: NewKek,
        context: Context,
        progress: Progress,
        chunk: int,
    ) -> None:
        self._store = store
        self._work = Transactions(store, keyring)
        self._connection = store.connection
        self._keyring = keyring
        self._new = new
        self._context = context
        self._progress = progress
        self._chunk = chunk
        self._rewrapped = 0
        self._unwrappable: list[Unwrappable] = []

    async def run(self, settle_seconds: float) -> RotationReport:
        await self._prepare(settle_seconds)
        await self._start()
        await self._rewrap_event_keys()
        await self._rewrap_all()
        retired = () if self._unwrappable else await self._finish()
        keks, unwrappable = await uses(self._connection), tuple(self._unwrappable)
        return RotationReport(self._new.kek.id, self._rewrapped, keks, unwrappable, retired)

    async def _prepare(self, settle_seconds: float) -> None:
        state = await self._state()
        if state == RETIRED:
            raise RotationRefusedError(
                f"the new key was this ledger's before (KEK {self._new.kek.id}) and is retired: "
                "make a fresh one, for instance with secrets-broker keygen"
            )
        if state is None:
            # Died before this line: nothing happened. Died after: a KEK is known that wraps
            # nothing, and the next run begins with it or with another.
            await self._connection.execute(_PREPARE, self._new.row)
        if state in (None, PREPARED) and self._new.wrapped is not None:
            await asyncio.sleep(settle_seconds)

    async def _state(self) -> str | None:
        known = {use.id: use.state for use in await uses(self._connection)}
        return known.get(self._new.kek.id)

    async def _start(self) -> None:
        if await self._state() == ACTIVE:
            return  # an earlier run started it
        before = await uses(self._connection)
        details = {
            "kek": self._new.kek.id,
            "provider": self._new.kek.provider,
            "data_keys": {use.id: use.data_keys for use in before if use.data_keys},
        }
        activate = Statement("SELECT ledger.activate_kek($1)", (self._new.kek.id.encode(),))
        # Died before this commits: the old KEK is active still. Died after: the new one is, both
        # are needed to serve, and the next run continues with the chunks.
        await self._record(KEY_ROTATION_STARTED, details, activate)

    async def _rewrap_event_keys(self) -> None:
        """Wrap all event keys again in one transaction: there are only a few."""
        await self._work.begin([])
        await self._work.give_up()
        ledger = self._store.authenticator.authenticity.ledger
        cursor = await self._connection.execute(_EVENT_KEYS, (self._new.kek.id,), binary=True)
        stored = [WrappedEventKey(*row) for row in await cursor.fetchall()]
        if not stored or ledger is None:
            return
        columns = (
            [key.id for key in stored],
            [key.kek for key in stored],
            [self._wrapped_again(ledger, key) for key in stored],
        )
        # Died before this commits: they are under the old KEK, and read again. Died after: they
        # are under the new one, and a process that holds them open does not notice.
        await self._connection.execute(_REWRAP_EVENT_KEYS, columns)

    def _wrapped_again(self, ledger: str, key: WrappedEventKey) -> bytes:
        if (key.from_position, key.id) not in self._store.authenticator.authenticity.keys:
            # A forged event brought this key. It opens under no KEK, and must not keep an old KEK
            # from being retired.
            return key.wrapped
        opened = unwrap(self._keyring.require(key.kek), ledger, key)
        return opened.wrap(self._new.kek, key.from_position).wrapped

    async def _rewrap_all(self) -> None:
        total = sum(use.data_keys for use in await self._others())
        chunk, done = await self._next(""), 0
        rewrapped = self._rewrap(chunk)
        while chunk:
            following = await self._next(chunk[-1].id)
            # The next chunk is wrapped while the server takes this one.
            _, ahead = await asyncio.gather(
                self._put(chunk, rewrapped), asyncio.to_thread(self._rewrap, following)
            )
            done += len(chunk)
            self._progress(done, max(total, done))
            chunk, rewrapped = following, ahead

    async def _next(self, after: str) -> list[DataKey]:
        cursor = await self._connection.execute(
            _CHUNK, (after, self._new.kek.id, self._chunk), binary=True
        )
        return [DataKey(*row) for row in await cursor.fetchall()]

    def _rewrap(self, chunk: Sequence[DataKey]) -> list[bytes | None]:
        rewrapped: list[bytes | None] = []
        for key in chunk:
            try:
                dek = self._keyring.require(key.kek).unwrap(key)
            except DecryptionError:
                rewrapped.append(None)
            else:
                rewrapped.append(self._new.kek.wrap(key.id, key.credential_id, dek).wrapped)
        return rewrapped

    async def _put(self, chunk: Sequence[DataKey], rewrapped: Sequence[bytes | None]) -> None:
        pairs = list(zip(chunk, rewrapped, strict=True))
        good = [(key.id, key.kek, wrapped) for key, wrapped in pairs if wrapped is not None]
        if good:
            # Died before this commits: the chunk is under its old KEK, and is read again. Died
            # after: it is under the new one, and is not.
            self._rewrapped += await self._committed(tuple(map(list, zip(*good, strict=True))))
        for key, wrapped in pairs:
            if wrapped is None:
                self._unwrappable.append(await self._named(key))

    async def _committed(self, columns: tuple[list[Any], ...]) -> int:
        for attempt in range(DEADLOCK_ATTEMPTS):
            try:
                cursor = await self._connection.execute(_REWRAP, columns)
            except errors.DeadlockDetected:
                if attempt == DEADLOCK_ATTEMPTS - 1:
                    raise
            else:
                return int((await cursor.fetchall())[0][0])
        raise AssertionError

    async def _named(self, key: DataKey) -> Unwrappable:
        cursor = await self._connection.execute(_NAME_OF, (key.credential_id,))
        host, purpose = (await cursor.fetchone()) or (None, None)
        return Unwrappable(key.id, key.credential_id, host, purpose)

    async def _finish(self) -> tuple[str, ...]:
        left = await self._others()
        if not left:
            return ()
        if any(use.is_needed for use in left):
            raise LedgerError("keys are left under another KEK: run the same again")
        used = sum(use.data_keys for use in await uses(self._connection))
        retired = tuple(use.id for use in left)
        details = {"kek": self._new.kek.id, "data_keys": used, RETIRED: list(retired)}
        # Died before this commits: nothing is left to wrap, and the next run ends here. Died
        # after: the rotation is over.
        await self._record(KEY_ROTATED, details, Statement("SELECT ledger.retire_keks()"))
        return retired

    async def _others(self) -> list[KekUse]:
        every = await uses(self._connection)
        return [u for u in every if u.id != self._new.kek.id and u.state != RETIRED]

    async def _record(self, event_type: str, details: dict[str, Any], also: Statement) -> None:
        fold = await self._work.begin([])
        fold.take(Record(type=event_type, details=details), self._context)
        await self._work.commit(fold, also)

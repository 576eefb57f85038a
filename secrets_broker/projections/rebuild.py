"""Rebuild secrets.host_credentials from the ledger, beside the live table, while it serves.

1. Build: fill a temporary table from the last change of each name, in short transactions without a
   lock.
2. Compare: in one snapshot (REPEATABLE READ), take in the changes since, and compare. Events and
   rows are committed together, so in a snapshot they agree to the byte.
3. Apply: under the ledger's lock, take in the changes since once more, replace the rows that
   differ, and append `projection.rebuilt`, in one transaction.

Swapping tables by renaming would break views and wait for readers.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import psycopg
from psycopg import AsyncConnection

from secrets_broker.ledger.commands import Name, Record
from secrets_broker.ledger.database.ledger_session import TOOL_SESSION, connect
from secrets_broker.ledger.encryption.body import CiphertextPlace, open_body
from secrets_broker.ledger.encryption.keks import check_keys
from secrets_broker.ledger.encryption.keyring import DataKey, Keyring
from secrets_broker.ledger.errors import DecryptionError, LedgerUnavailableError
from secrets_broker.ledger.event_types import GONE, IS_CHANGE, PROJECTION_REBUILT
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Outcome
from secrets_broker.ledger.store import Store
from secrets_broker.ledger.transactions import Transactions
from secrets_broker.projections.host_credentials import REBUILD, HostCredentials, parameters
from secrets_broker.projections.unreadable import Unreadable
from secrets_broker.session import with_grant

CHUNK: Final = 4_000  # some milliseconds of work each, so that no transaction is long

_CREATE: Final = """
    CREATE TEMP TABLE rebuilt (LIKE secrets.host_credentials INCLUDING ALL);
    CREATE TEMP TABLE differing (
        host text, purpose text, kind text, columns text[], PRIMARY KEY (host, purpose))
"""
_SIZE: Final = "SELECT coalesce(max(position) + 1, 0) FROM ledger.events"
_LAST_CHANGES: Final = """
    SELECT last.host, last.purpose, last.position, last.type, last.credential_id, last.version,
           body.ciphertext, data_key.id, data_key.credential_id, data_key.kek, data_key.wrapped
    FROM (
        SELECT DISTINCT ON (host, purpose) * FROM ledger.effective_events
        WHERE __is_change__
          AND {which}
        ORDER BY host, purpose, position DESC {limit}
    ) AS last
    LEFT JOIN ledger.bodies AS body ON body.position = last.position
    LEFT JOIN ledger.data_keys AS data_key ON data_key.id = last.body ->> 'key'
    ORDER BY last.host, last.purpose
""".replace("__is_change__", IS_CHANGE)
_NEXT_NAMES: Final = _LAST_CHANGES.format(
    which="(host, purpose) > (%s, %s) AND position < %s", limit="LIMIT %s"
)
_CHANGED_NAMES: Final = _LAST_CHANGES.format(
    which="""(host, purpose) IN (
        SELECT host, purpose FROM ledger.events WHERE position >= %s AND type <> 'credential.read')
    """,
    limit="",
)
_FORGET: Final = """
    DELETE FROM pg_temp.rebuilt AS made USING jsonb_to_recordset(%s::jsonb)
        AS name (host text, purpose text)
    WHERE made.host = name.host AND made.purpose = name.purpose
"""
# Whole rows as text: jsonb values that are equal but not the same bytes differ, too.
_COMPARE: Final = """
    INSERT INTO pg_temp.differing
    SELECT coalesce(live.host, made.host), coalesce(live.purpose, made.purpose),
           CASE WHEN live.id IS NULL THEN 'missing' WHEN made.id IS NULL THEN 'surplus'
                ELSE 'different' END,
           (SELECT array_agg(l.key ORDER BY l.key)
            FROM jsonb_each_text(to_jsonb(live)) AS l
            JOIN jsonb_each_text(to_jsonb(made)) AS m USING (key)
            WHERE l.value IS DISTINCT FROM m.value)
    FROM secrets.host_credentials AS live
    FULL JOIN pg_temp.rebuilt AS made USING (host, purpose)
    WHERE live::text IS DISTINCT FROM made::text
"""
_DIFFERENCES: Final = """
    SELECT host, purpose, kind, coalesce(columns, '{}') FROM pg_temp.differing
    ORDER BY host, purpose
"""
_APPLY: Final = (
    """
    DELETE FROM secrets.host_credentials AS live USING pg_temp.differing
    WHERE live.host = differing.host AND live.purpose = differing.purpose
    """,
    """
    INSERT INTO secrets.host_credentials
    SELECT made.* FROM pg_temp.rebuilt AS made JOIN pg_temp.differing USING (host, purpose)
    """,
)

Progress = Callable[[int], None]

_REBUILD: Final = REBUILD.replace("$1", "%s")


@dataclass(frozen=True, slots=True)
class Difference:
    """A name whose live row differs from the ledger; only names of columns, never values."""

    host: str
    purpose: str
    kind: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The live table compared with the ledger's first `size` events."""

    size: int
    rows: int
    differences: tuple[Difference, ...]
    unreadable: tuple[Unreadable, ...]
    position: int | None = None
    """The position of projection.rebuilt; None for a comparison only."""


class Rebuild:
    """One rebuild: build, compare, apply, in this order."""

    def __init__(self, store: Store, keyring: Keyring, progress: Progress) -> None:
        self._store = store
        self._connection = store.connection
        self._keyring = keyring
        self._progress = progress
        self._size = 0
        self._unreadable: dict[Name, Unreadable] = {}

    async def build(self, reader: AsyncConnection[Any]) -> None:
        """Fill the table beside the live one; the reader fetches while this session inserts."""
        await self._connection.execute(_CREATE)
        self._size = await self._scalar(_SIZE)
        records = await self._next(reader, ("", ""))
        done = 0
        while records:
            last: Name = (records[-1][0], records[-1][1])
            following, _ = await asyncio.gather(self._next(reader, last), self._put(records))
            done += len(records)
            self._progress(done)
            records = following
        await self._connection.execute("ANALYZE pg_temp.rebuilt")

    async def compare(self) -> Comparison:
        """Compare with the live table in one snapshot; nothing is locked."""
        async with self._connection.transaction():
            await self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await self._catch_up()
            await self._connection.execute(_COMPARE)
            await self._forget_unreadable()
            differences = await self._connection.execute(_DIFFERENCES)
            return Comparison(
                size=self._size,
                rows=await self._scalar("SELECT count(*) FROM pg_temp.rebuilt"),
                differences=tuple(
                    Difference(host, purpose, kind, tuple(columns))
                    for host, purpose, kind, columns in await differences.fetchall()
                ),
                unreadable=tuple(self._unreadable.values()),
            )

    async def apply(self, found: Comparison, context: Context) -> Outcome:
        """Replace the rows that differ, and record that; under the ledger's lock."""
        work = Transactions(self._store, self._keyring)
        fold = await work.begin([])
        await self._catch_up()
        for statement in _APPLY:
            await self._connection.execute(statement)
        details = {
            "projection": "secrets.host_credentials",
            "size": self._size,
            "rows": found.rows,
            "replaced": len(found.differences),
            "unreadable": len(found.unreadable),
        }
        outcome = fold.take(Record(type=PROJECTION_REBUILT, details=details), context)
        # Died before this commits: the live table is as it was, and the table beside it is gone
        # with the session. Died after: the rows are right and the event says so.
        await work.commit(fold)
        return outcome

    async def _next(self, reader: AsyncConnection[Any], after: Name) -> list[Any]:
        cursor = await reader.execute(_NEXT_NAMES, (*after, self._size, CHUNK))
        return await cursor.fetchall()

    async def _catch_up(self) -> None:
        """Take in the changes since the last call, as this transaction sees them."""
        cursor = await self._connection.execute(_CHANGED_NAMES, (self._size,))
        records = await cursor.fetchall()
        names = msgspec.json.encode([{"host": r[0], "purpose": r[1]} for r in records]).decode()
        await self._connection.execute(_FORGET, (names,))
        await self._put(records)
        self._size = await self._scalar(_SIZE)

    async def _put(self, records: Sequence[Any]) -> None:
        rows = [row for row in map(self._row, records) if row]
        if rows:
            given = msgspec.json.encode(rows).decode()
            await self._connection.execute(_REBUILD, (given,))

    def _row(self, record: Sequence[Any]) -> dict[str, Any] | None:
        host, purpose, position, event_type, credential_id, version, ciphertext, *key = record
        self._unreadable.pop((host, purpose), None)
        if event_type in GONE:
            return None
        try:
            if ciphertext is None or key[0] is None:
                raise DecryptionError("the body or its data key is not there")
            cipher = self._keyring.unwrap(DataKey(*key))
            place = CiphertextPlace(host, purpose, credential_id, version)
            return parameters(position, open_body(cipher, event_type, place, ciphertext))
        except DecryptionError as error:
            self._unreadable[host, purpose] = Unreadable(host, purpose, position, str(error))
            return None

    async def _forget_unreadable(self) -> None:
        names = [{"host": host, "purpose": purpose} for host, purpose in self._unreadable]
        statement = _FORGET.replace("pg_temp.rebuilt", "pg_temp.differing")
        await self._connection.execute(statement, (msgspec.json.encode(names).decode(),))

    async def _scalar(self, query: str) -> int:
        cursor = await self._connection.execute(query)
        row = await cursor.fetchone()
        return int(row[0]) if row else 0


async def rebuild(
    owner_url: str,
    keyring: Keyring,
    context: Context,
    *,
    check_only: bool = False,
    progress: Progress = lambda _: None,
) -> Comparison:
    """Rebuild the projection, or only compare; raises LedgerUnavailableError."""
    async with _sessions(owner_url, keyring) as (store, reader):
        await check_keys(store.connection, keyring)
        work = Rebuild(store, keyring, progress)
        await work.build(reader)
        found = await work.compare()
        if check_only:
            return found
        outcome = await work.apply(found, context)
        return replace(found, position=outcome.position)


@asynccontextmanager
async def _sessions(
    owner_url: str, keyring: Keyring
) -> AsyncIterator[tuple[Store, AsyncConnection[Any]]]:
    """One session to write and one to read; psycopg's errors become LedgerUnavailableError."""
    async with AsyncExitStack() as undo:
        store = await Store.connect(owner_url, HostCredentials(), keyring, TOOL_SESSION)
        undo.push_async_callback(store.close)
        reader = await connect(owner_url, TOOL_SESSION)
        undo.push_async_callback(reader.close)
        try:
            yield store, reader
        except psycopg.Error as error:
            raise LedgerUnavailableError(f"{with_grant(error)}; nothing was replaced") from None

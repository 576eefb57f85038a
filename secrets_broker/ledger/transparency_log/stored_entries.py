"""Reads entries by SQL, made only from the columns of an event's row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from psycopg import AsyncConnection

from secrets_broker.ledger.encoding import canonical_json
from secrets_broker.ledger.events import Event

ENTRY_COLUMNS: Final = """
    v, type, actor, authn, ip, request_id, reason, host, purpose, credential_id, version, ok, error,
    details, body, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at,
    to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS occurred_at
"""
"""The columns that row_to_json makes an entry from."""
_ENTRIES: Final = f"""
    SELECT position, leaf_hash, row_to_json(entry)::text
    FROM (
        SELECT position, leaf_hash, {ENTRY_COLUMNS}
        FROM ledger.events WHERE position >= %s AND position < %s
    ) AS entry
    ORDER BY position
"""  # noqa: S608 - our own constant

_decoder = msgspec.json.Decoder(Event)


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """A stored event: its position, the stored leaf hash, and its entry's bytes."""

    position: int
    leaf: bytes
    entry: bytes


async def read_rows(connection: AsyncConnection[Any], first: int, count: int) -> list[StoredEntry]:
    """The events from a position on, in order; fewer where there are no more."""
    cursor = await connection.execute(_ENTRIES, (first, first + count), binary=True)
    return [_row(record) for record in await cursor.fetchall()]


def entry_of(text: str) -> bytes:
    """An entry's bytes, from the JSON of its row."""
    return canonical_json(_decoder.decode(text))


def _row(record: Sequence[Any]) -> StoredEntry:
    position, leaf, text = record
    return StoredEntry(position, leaf, entry_of(text))

"""Entries by SQL: made from the columns of an event's row, and from nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from psycopg import AsyncConnection

from secrets_broker.ledger.encoding import canonical_json
from secrets_broker.ledger.events import Event

_ENTRIES: Final = """
    SELECT position, leaf_hash, row_to_json(entry)::text
    FROM (
        SELECT position, leaf_hash, v, type, actor, authn, ip, request_id, reason, host, purpose,
               credential_id, version, ok, error, details, body,
               to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at,
               to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                   AS occurred_at
        FROM ledger.events WHERE position >= %s AND position < %s
    ) AS entry
    ORDER BY position
"""

_decoder = msgspec.json.Decoder(Event)


@dataclass(frozen=True, slots=True)
class Row:
    """An event as it is stored: its position, the leaf hash beside it, and its entry's bytes."""

    position: int
    leaf: bytes
    entry: bytes


async def read_rows(connection: AsyncConnection[Any], first: int, count: int) -> list[Row]:
    """The events from a position on, in order; fewer where there are no more."""
    cursor = await connection.execute(_ENTRIES, (first, first + count), binary=True)
    return [_row(record) for record in await cursor.fetchall()]


def _row(record: Sequence[Any]) -> Row:
    position, leaf, text = record
    return Row(position, leaf, canonical_json(_decoder.decode(text)))

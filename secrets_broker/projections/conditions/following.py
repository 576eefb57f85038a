"""Reads the ledger as it grows, for `Conditions`: a range of the primary key at a time.

Each statement is its own transaction and takes no lock, so appending never waits. Positions have no
gap and are committed in order, so a reader has missed nothing before its position.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.errors import LedgerMismatchError
from secrets_broker.ledger.events import IS_DISOWNED
from secrets_broker.projections.conditions import COLUMNS, Conditions, Happened
from secrets_broker.projections.paging.position_walk import begin_at

AT_ONCE: Final = 2_000  # events a statement: a few milliseconds
MAX_LEARNED: Final = 250_000
"""The most events that are read to learn what is usual: some ten seconds."""

# Disowned events get a type of their own, from which no condition follows.
_TYPE: Final = f"CASE WHEN {IS_DISOWNED} THEN 'disowned' ELSE type END"
_EVENTS: Final = f"""
    SELECT {", ".join(COLUMNS).replace("type", _TYPE)}, encode(leaf_hash, 'hex') FROM ledger.events
    WHERE position >= %s AND position < %s ORDER BY position
"""  # noqa: S608 - our own words
_LEAF: Final = "SELECT at, encode(leaf_hash, 'hex') FROM ledger.events WHERE position = %s"
_UNCOVERED: Final = """
    SELECT clock_timestamp(), published.origin IS NOT NULL, published.size, event.at
    FROM ledger.published LEFT JOIN ledger.events AS event ON event.position = published.size
"""


@dataclass(frozen=True, slots=True)
class ReadPosition:
    """How far the ledger was read; `position` is the next one to read."""

    position: int = 0
    leaf: str | None = None
    """The leaf hash, in hex, of the event before it."""

    def after(self, leaf: str) -> "ReadPosition":
        """The place after the event at this position, given its leaf hash."""
        return ReadPosition(self.position + 1, leaf)


async def place_at(connection: "AsyncConnection[Any]", position: int) -> ReadPosition:
    """The place before a position, which exists or is the next one to be recorded."""
    if position == 0:
        return ReadPosition()
    found = await _fetch(connection, _LEAF, position - 1)
    if not found:
        raise LedgerMismatchError(_shorter(position))
    return ReadPosition(position, found[0][1])


async def more(
    connection: "AsyncConnection[Any]", place: ReadPosition, most: int = AT_ONCE
) -> list[tuple[Happened, ReadPosition]]:
    """The next events, each with the place after it.

    Raises LedgerMismatchError where the event before the place is missing or another one: the
    ledger was restored from a backup, or rewritten.
    """
    first = max(place.position - 1, 0)
    rows = await _fetch(connection, _EVENTS, first, place.position + most)
    if place.position:
        if not rows:
            raise LedgerMismatchError(_shorter(place.position))
        if rows[0][-1] != place.leaf:
            raise LedgerMismatchError(
                f"the event at position {first} is not the one that was read before: this is "
                "another ledger, or it was rewritten"
            )
        rows = rows[1:]
    found = []
    for row in rows:
        place = place.after(row[-1])
        found.append((Happened(*row[:-1]), place))
    return found


async def learn(
    connection: "AsyncConnection[Any]", conditions: Conditions, position: int, period: timedelta
) -> None:
    """Fold the events before a position, without reporting conditions.

    These are the events recorded within `period` before it, at most MAX_LEARNED of them.
    """
    async for event in _before(connection, position, period):
        conditions.take(event)


async def beginning(
    connection: "AsyncConnection[Any]", position: int, period: timedelta
) -> ReadPosition:
    """Where to start reading, to have learned what is usual by this position."""
    if position == 0:
        return ReadPosition()
    ((last_at, _),) = await _fetch(connection, _LEAF, position - 1)
    begin = await begin_at(connection, last_at - period, position)
    return await place_at(connection, max(begin, position - MAX_LEARNED))


async def uncovered(
    connection: "AsyncConnection[Any]",
) -> tuple[datetime, bool, tuple[int, datetime] | None]:
    """The database's clock, whether anything was ever published, and the first event that no
    published checkpoint covers: its position and time, or None where all are covered."""
    ((now, ever, size, at),) = await _fetch(connection, _UNCOVERED)
    return now, ever, None if at is None else (size, at)


async def _before(
    connection: "AsyncConnection[Any]", position: int, period: timedelta
) -> AsyncIterator[Happened]:
    place = await beginning(connection, position, period)
    while place.position < position:
        found = await more(connection, place, min(AT_ONCE, position - place.position))
        for event, behind in found:
            yield event
            place = behind


async def _fetch(connection: "AsyncConnection[Any]", query: str, *values: Any) -> list[Any]:
    cursor = await connection.execute(query.encode(), values or None, binary=True)
    return await cursor.fetchall()


def _shorter(position: int) -> str:
    return (
        f"the ledger has fewer events than were read before ({position}): it was restored from a "
        "backup, or rewritten"
    )

"""A page of events in the order of their positions, however few of them match.

A filter without an index has to read events one by one. A page then reads ranges of the primary key
until it is full or its time is over: it may be short or empty and still have a next page. Where an
index finds few enough candidates, all of them are read instead. No further index is needed, so
appending does not pay for one.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.database.search_by_time import asking, first_at

Record = tuple[Any, ...]

_SIZE: Final = "SELECT coalesce(max(position) + 1, 0) FROM ledger.events"


@dataclass(frozen=True, slots=True)
class PageBudget:
    """How much a page may do."""

    positions: int = 100_000
    """Events that one statement reads: some fifty milliseconds."""
    few: int = 20_000
    """Up to so many candidates of an index are all read at once."""
    seconds: float = 1.0
    """A page ends with the statement that is running after this time."""


PAGE_BUDGET: Final = PageBudget()


@dataclass(frozen=True, slots=True)
class Filter:
    """Columns of ledger.events, the position first, and the condition that chooses.

    `narrow` is that part of the condition which an index serves, where there is one.
    """

    columns: str
    condition: str
    values: Mapping[str, Any]
    narrow: str | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Positions from `start` to `stop`, both included; downwards where `newest_first`."""

    start: int
    stop: int
    newest_first: bool = False

    def __bool__(self) -> bool:
        """Whether any position is left."""
        return self.start >= self.stop if self.newest_first else self.start <= self.stop

    def split(self, positions: int) -> tuple["Stretch", "Stretch"]:
        """The first so many positions, and the rest."""
        if self.newest_first:
            end = max(self.stop, self.start - positions + 1)
            return Stretch(self.start, end, True), Stretch(end - 1, self.stop, True)
        end = min(self.stop, self.start + positions - 1)
        return Stretch(self.start, end), Stretch(end + 1, self.stop)


async def walk(
    connection: "AsyncConnection[Any]",
    wanted: Filter,
    stretch: Stretch,
    limit: int,
    budget: PageBudget = PAGE_BUDGET,
) -> tuple[list[Record], int | None]:
    """At most `limit` records, and the next page's first position; None after the last page."""
    give_up = time.monotonic() + budget.seconds
    few = wanted.narrow is not None and await _are_few(connection, wanted, budget)
    found: list[Record] = []
    while stretch:
        piece, stretch = stretch.split(2**63 if few else budget.positions)
        found += await _records(connection, wanted, piece, limit + 1 - len(found), few)
        if len(found) > limit:
            return found[:limit], found[limit][0]
        if time.monotonic() >= give_up:
            break
    return found, stretch.start if stretch else None


async def size(connection: "AsyncConnection[Any]") -> int:
    """How many events there are."""
    ((count,),) = await _fetch(connection, _SIZE, {})
    return int(count)


async def begin_at(connection: "AsyncConnection[Any]", moment: datetime, events: int) -> int:
    """Where to start, among so many events, to miss none recorded at the time or later."""
    # Where an event is missing, start with the first one.
    return await first_at(asking(connection), moment, events) or 0


async def _are_few(connection: "AsyncConnection[Any]", wanted: Filter, budget: PageBudget) -> bool:
    query = f"""
        SELECT count(*) FROM (
            SELECT FROM ledger.events WHERE {wanted.narrow} LIMIT %(few)s + 1) AS candidate
    """  # noqa: S608 - our own words
    ((count,),) = await _fetch(connection, query, {**wanted.values, "few": budget.few})
    return bool(count <= budget.few)


async def _records(
    connection: "AsyncConnection[Any]", wanted: Filter, piece: Stretch, limit: int, few: bool
) -> list[Record]:
    # "+ 0": no index has that order, so the planner cannot walk along the primary key.
    order = "position + 0" if few else "position"
    query = f"""
        SELECT {wanted.columns} FROM ledger.events
        WHERE {wanted.condition} AND position BETWEEN %(low)s AND %(high)s
        ORDER BY {order} {"DESC" if piece.newest_first else "ASC"} LIMIT %(limit)s
    """  # noqa: S608 - our own words
    low, high = sorted((piece.start, piece.stop))
    values = {**wanted.values, "low": low, "high": high, "limit": limit}
    return await _fetch(connection, query, values)


async def _fetch(
    connection: "AsyncConnection[Any]", query: str, values: Mapping[str, Any]
) -> list[Record]:
    answer = await connection.execute(query.encode(), values)
    return await answer.fetchall()

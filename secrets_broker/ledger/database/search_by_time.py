"""Where in the ledger a time is: the one search by time, for all who ask.

Times follow positions and have no index of their own: they never run backwards, so a binary search
by position finds an event by its time, in as many look-ups by the primary key as there are binary
digits in the ledger's size.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final, LiteralString

from psycopg import AsyncConnection

Fetch = Callable[[LiteralString, Mapping[str, Any]], Awaitable[list[Any]]]
"""Asks a query with named values, and gives its rows."""

_FIRST_AT: Final = """
    WITH RECURSIVE search (low, high) AS (
        SELECT 0::bigint, %(size)s::bigint
      UNION ALL
        SELECT CASE WHEN middle.at < %(moment)s THEN middle.position + 1 ELSE low END,
               CASE WHEN middle.at < %(moment)s THEN high ELSE middle.position END
        FROM search JOIN ledger.events AS middle ON middle.position = (low + high) / 2
        WHERE low < high
    )
    SELECT low FROM search WHERE low >= high
"""


def asking(connection: "AsyncConnection[Any]") -> Fetch:
    """What asks over this connection."""

    async def fetch(query: LiteralString, values: Mapping[str, Any]) -> list[Any]:
        cursor = await connection.execute(query, values)
        return await cursor.fetchall()

    return fetch


async def first_at(fetch: Fetch, moment: datetime, size: int) -> int | None:
    """The first position of `size` events that was recorded then or later; `size` where none was.

    None where an event is missing, since somebody took it away: then no search can tell.
    """
    found = await fetch(_FIRST_AT, {"moment": moment, "size": size})
    return int(found[0][0]) if found else None

"""Finds the position of a time in the ledger: the one search by time.

Times never run backwards, so they need no index of their own. A binary search by position finds a
time, with one look-up by the primary key for each binary digit of the ledger's size.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final, LiteralString

from psycopg import AsyncConnection

Fetch = Callable[[LiteralString, Mapping[str, Any]], Awaitable[list[Any]]]
"""Runs a query with named values, and returns its rows."""

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
    """A `Fetch` over this connection."""

    async def fetch(query: LiteralString, values: Mapping[str, Any]) -> list[Any]:
        cursor = await connection.execute(query, values)
        return await cursor.fetchall()

    return fetch


async def first_at(fetch: Fetch, moment: datetime, size: int) -> int | None:
    """The first position below `size` that was recorded then or later; else `size`.

    None if the search hits a missing event, which somebody has removed.
    """
    found = await fetch(_FIRST_AT, {"moment": moment, "size": size})
    return int(found[0][0]) if found else None

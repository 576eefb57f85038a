"""Ranges of events out of PostgreSQL, in statements of some milliseconds.

Entries are made from the rows' columns and from nothing else. What a login may not read is said
not to be checked.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, TypeVar

import psycopg

from secrets_broker.ledger.database.ledger_session import TOOL_SESSION, connect
from secrets_broker.ledger.transparency_log.merkle import TILE_WIDTH
from secrets_broker.migrations.shipped import PINS, Catalogue, gathered
from secrets_broker.session import safe_message
from secrets_broker.tools.verify.checks.findings import Violation
from secrets_broker.tools.verify.checks.ranges import BodyDigest, Loaded
from secrets_broker.tools.verify.sources import statements
from secrets_broker.tools.verify.sources.source_protocol import DamagedError, SourceError

T = TypeVar("T")

SESSION: Final = {**TOOL_SESSION, "default_transaction_read_only": "on"}


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """A PostgreSQL, by its URL."""

    url: str = field(repr=False)
    bodies: bool = True

    def open(self) -> "DatabaseReader":
        """A connection of its own."""
        return DatabaseReader(self.url, bodies=self.bodies)


class DatabaseReader:
    """Reads ranges of events."""

    def __init__(self, url: str, *, bodies: bool) -> None:
        # Not a Runner: for each call it sets a signal handler, which writes out all of the result.
        self._loop = asyncio.new_event_loop()
        try:
            self._connection = self._loop.run_until_complete(connect(url, SESSION))
        except BaseException:
            self._loop.close()
            raise
        self._with_bodies = bodies

    def load(self, first: int, count: int) -> Loaded:
        """The range as its rows are; see Reader."""
        return self._run(self._load(first, count))

    def fetch(self, query: str, *values: Any) -> list[Any]:
        """The rows of one statement."""
        return self._run(self._fetch(query, *values))

    def catalogue(self, query: str) -> Catalogue | None:
        """What one of the catalogue's QUERIES answers; None where the login may not ask it."""
        rows = self._run(self._pinned(query))
        return None if rows is None else gathered(rows)

    def told(self, query: str) -> list[Any] | None:
        """The one column that a query answers; None where the login may not ask it."""
        rows = self._run(self._pinned(query))
        return None if rows is None else [value for (value,) in rows]

    def view_of(self, query: str) -> str | None:
        """PostgreSQL's own words for a query; None where the login may make no temporary view."""
        return self._run(self._view_of(query))

    def close(self) -> None:
        """Close the connection."""
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()

    async def _load(self, first: int, count: int) -> Loaded:
        ((positions, leaves, joined),) = await self._fetch(statements.EVENTS, first, first + count)
        tiles = range(first // TILE_WIDTH, (first + count) // TILE_WIDTH)
        nodes = dict(await self._fetch(statements.NODES, 1, tiles.start, tiles.stop))
        bodies = None
        if self._with_bodies:
            rows = await self._fetch(statements.BODIES, first, first + count)
            bodies = {at: BodyDigest(key, sha256(text or b"").digest()) for at, key, text in rows}
        texts = joined.encode().split(b"\n") if joined else []
        loaded = Loaded(
            first=first,
            entries=list(texts),
            leaves=leaves or [],
            nodes=[nodes.get(index) for index in tiles],
            bodies=bodies,
            canonical=False,
        )
        if (positions or []) != list(range(first, first + count)):
            _align(loaded, count, positions or [])
        return loaded

    async def _pinned(self, query: str) -> list[Any] | None:
        try:
            async with self._connection.transaction():
                await self._pin()
                return await self._fetch(query)
        except psycopg.errors.InsufficientPrivilege:
            return None

    async def _pin(self) -> None:
        for name, value in PINS.items():
            await self._fetch("SELECT set_config(%s, %s, true)", name, value)

    async def _view_of(self, query: str) -> str | None:
        try:
            async with self._connection.transaction(force_rollback=True):
                await self._connection.execute("SET TRANSACTION READ WRITE")
                await self._pin()
                await self._connection.execute(f"CREATE TEMP VIEW shipped AS {query}".encode())
                ((text,),) = await self._fetch("SELECT pg_get_viewdef('pg_temp.shipped'::regclass)")
                return str(text)
        except psycopg.errors.InsufficientPrivilege:
            return None
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            return ""  # what it shows is not there any more, so nothing can be the same

    async def _fetch(self, query: str, *values: Any) -> list[Any]:
        cursor = await self._connection.execute(query.encode(), values or None, binary=True)
        return await cursor.fetchall()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._loop.run_until_complete(work)
        except psycopg.Error as error:
            # A row holds what cannot be computed with (class 22), or is torn on disk (XX001).
            damaged = (error.sqlstate or "").startswith(("22", "XX00"))
            kind = DamagedError if damaged else SourceError
            raise kind(f"the database could not be read: {safe_message(error)}") from None


def _align(loaded: Loaded, count: int, positions: Sequence[int]) -> None:
    """Put rows to their positions, where some are missing or there twice."""
    rows = list(zip(positions, loaded.entries, loaded.leaves or [], strict=False))
    loaded.entries, loaded.leaves = [None] * count, [None] * count
    for position, entry, leaf in rows:
        at = position - loaded.first
        if loaded.entries[at] is not None:
            loaded.problems.append(Violation(position, "position", "two events have this position"))
        loaded.entries[at], loaded.leaves[at] = entry, leaf

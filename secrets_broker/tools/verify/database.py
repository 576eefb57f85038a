"""A ledger in PostgreSQL, read a range at a time, in statements of some milliseconds.

Entries are made from the rows' columns and from nothing else. What a login may not read is said
not to be checked.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, TypeVar

import psycopg

from secrets_broker.ledger.audit.findings import Problem
from secrets_broker.ledger.audit.heads import Kept
from secrets_broker.ledger.audit.ranges import Loaded, StoredBody
from secrets_broker.ledger.audit.subtree import Hash
from secrets_broker.ledger.connection import TOOL_SESSION, connect
from secrets_broker.ledger.merkle import TILE_WIDTH
from secrets_broker.tools.verify import queries
from secrets_broker.tools.verify.sources import Overview, SourceError

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

    def view_of(self, query: str) -> str | None:
        """PostgreSQL's own words for a query; None where the login may make no temporary view."""
        return self._run(self._view_of(query))

    def close(self) -> None:
        """Close the connection."""
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()

    async def _load(self, first: int, count: int) -> Loaded:
        ((positions, leaves, joined),) = await self._fetch(queries.EVENTS, first, first + count)
        tiles = range(first // TILE_WIDTH, (first + count) // TILE_WIDTH)
        nodes = dict(await self._fetch(queries.NODES, 1, tiles.start, tiles.stop))
        bodies = None
        if self._with_bodies:
            rows = await self._fetch(queries.BODIES, first, first + count)
            bodies = {at: StoredBody(key, sha256(text or b"").digest()) for at, key, text in rows}
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

    async def _view_of(self, query: str) -> str | None:
        try:
            async with self._connection.transaction(force_rollback=True):
                await self._connection.execute("SET TRANSACTION READ WRITE")
                await self._connection.execute(f"CREATE TEMP VIEW shipped AS {query}".encode())
                ((text,),) = await self._fetch("SELECT pg_get_viewdef('pg_temp.shipped'::regclass)")
                return str(text)
        except psycopg.errors.InsufficientPrivilege:
            return None

    async def _fetch(self, query: str, *values: Any) -> list[Any]:
        cursor = await self._connection.execute(query.encode(), values or None, binary=True)
        return await cursor.fetchall()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._loop.run_until_complete(work)
        except psycopg.Error as error:
            # Only the message: PostgreSQL's detail line may quote values of a row.
            why = error.diag.message_primary or type(error).__name__
            raise SourceError(f"the database could not be read: {why}") from None


def _align(loaded: Loaded, count: int, positions: Sequence[int]) -> None:
    """Put rows to their positions, where some are missing or there twice."""
    rows = list(zip(positions, loaded.entries, loaded.leaves or [], strict=False))
    loaded.entries, loaded.leaves = [None] * count, [None] * count
    for position, entry, leaf in rows:
        at = position - loaded.first
        if loaded.entries[at] is not None:
            loaded.problems.append(Problem(position, "position", "two events have this position"))
        loaded.entries[at], loaded.leaves[at] = entry, leaf


class DatabaseSource(DatabaseReader):
    """Gives all that the login may read."""

    name = "database"

    def __init__(self, url: str) -> None:
        super().__init__(url, bodies=True)
        self._url = url
        self.may_read_keys = self.may_read_rows = self.is_standby = False
        # Of this moment: what is published while the ledger is read is left to the next time.
        self._largest: dict[str, int] = {}
        try:
            self._check_rights()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> DatabaseAddress:
        """See Source."""
        return DatabaseAddress(self._url, self._with_bodies)

    def _check_rights(self) -> None:
        ((bodies, keys, rows),) = self.fetch(queries.READABLE)
        self._with_bodies, self.may_read_keys, self.may_read_rows = bodies, keys, rows

    @property
    def may_read_bodies(self) -> bool:
        """Whether this login may."""
        return self._with_bodies

    def overview(self) -> Overview:
        """The size at this moment, and what lies beyond it; see Source."""
        return self._run(self._overview())

    def checkpoints(self, low: int, high: int) -> Sequence[Kept]:
        """See Source."""
        known = self._largest
        rows = self.fetch(queries.CHECKPOINTS, list(known), list(known.values()), low, high)
        return [
            Kept(origin, size, note, root, cosignatures)
            for origin, size, root, note, cosignatures in rows
        ]

    def node(self, level: int, index: int) -> Hash:
        """See Source."""
        rows = self.fetch(queries.NODES, level, index, index + 1)
        return rows[0][1] if rows else None

    async def _overview(self) -> Overview:
        async with self._connection.transaction():
            # One snapshot, so that size, checkpoints and nodes are of the same moment.
            await self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            ((size, first, in_recovery),) = await self._fetch(queries.SIZE)
            published = await self._fetch(queries.PUBLISHED)
            self._largest = dict(await self._fetch(queries.ORIGINS))
            problems = [problem async for problem in self._beyond(size)]
        if first < 0:
            problems.append(Problem(0, "position", "there are events before position 0"))
        ((astray,),) = await self._fetch(queries.COSIGNATURES_ASTRAY)
        if astray:
            detail = f"{astray} cosignatures are of no checkpoint, or of another key than they say"
            problems.append(Problem(None, "signature", detail))
        if len(published) != 1 or published[0][1] is None:
            detail = "ledger.published has not one row with a size"
            problems.append(Problem(None, "checkpoint", detail))
        found = Overview(size, None, problems=problems)
        found.not_checked += self._not_readable()
        largest = self._largest.items()
        found.beyond = [Kept(origin, most, "") for origin, most in largest if most > size]
        if published and None not in published[0]:
            found.published = published[0]
        self.is_standby = in_recovery
        if in_recovery:
            found.remarks.append("this is a standby: the primary may have more")
        return found

    def _not_readable(self) -> Iterable[str]:
        if not self._with_bodies:
            yield "bodies: this login may not read ledger.bodies"
        if not self.may_read_keys:
            yield "whether erased data keys are gone: this login may not read ledger.data_keys"
        if not self.may_read_rows:
            yield "host_credentials: this login may not read it"

    async def _beyond(self, size: int) -> AsyncIterator[Problem]:
        for level, index in await self._fetch(queries.NODES_BEYOND, size):
            detail = f"node ({level}, {index}) covers events that are not there"
            yield Problem(size, "node", detail)
        if self._with_bodies:
            ((count,),) = await self._fetch(queries.BODIES_BEYOND, size)
            if count:
                yield Problem(size, "body", f"{count} bodies are of events that are not there")

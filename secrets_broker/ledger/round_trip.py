"""One round trip: statements that go out together and are answered together.

The server parses and plans a statement the first time that a connection sends it; from then on
only its name and its values travel, and no value ever stands in a query's text. The statements
go through libpq's pipeline mode, and after the last comes a Sync and nothing else: psycopg's own
pipelines add a Flush, at which the server forgets to time an idle transaction, and a writer that
froze would hold the ledger's lock for ever.

A failed statement ends its round trip: the server skips those after it.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq.abc import PGresult

_SYNC: Final = pq.ExecStatus.PIPELINE_SYNC
_FAILED: Final = pq.ExecStatus.FATAL_ERROR
_ROWS: Final = pq.ExecStatus.TUPLES_OK

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement, and its values $1, $2 … in PostgreSQL's text format."""

    sql: LiteralString
    values: tuple[bytes | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a round trip brought: the rows of each statement, and the tag of the last."""

    rows: list[Rows]
    tag: str


class RoundTrips:
    """Sends statements over a connection that nobody else uses meanwhile."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._names: dict[str, bytes] = {}

    async def send(self, *statements: Statement) -> Answer:
        """Execute statements in one round trip.

        Raises psycopg.Error. Who is cancelled in here has to close the connection.
        """
        self._pgconn.enter_pipeline_mode()
        executions = [index for statement in statements for index in self._queue(statement)]
        self._pgconn.pipeline_sync()
        results = await self._results()
        self._pgconn.exit_pipeline_mode()
        for result in results:
            if result.status == _FAILED:
                self._names.clear()  # what was skipped may have been a parse
                raise error_from_result(result)
        executed = [r for r, wanted in zip(results, executions, strict=True) if wanted]
        tag = (executed[-1].command_status or b"").decode()
        return Answer([self._rows(result) for result in executed], tag)

    def _queue(self, statement: Statement) -> list[bool]:
        """Send one statement; says of each result that it will have whether it is an execution."""
        name = self._names.get(statement.sql)
        parse = name is None
        if name is None:
            name = self._names[statement.sql] = b"ledger_%d" % len(self._names)
            self._pgconn.send_prepare(name, statement.sql.encode())
        self._pgconn.send_query_prepared(name, statement.values, result_format=pq.Format.BINARY)
        return [False, True] if parse else [True]

    async def _results(self) -> list[PGresult]:
        results: list[PGresult] = []
        while True:
            await self._until_answered()
            result = self._pgconn.get_result()
            if result is None:  # stands between the results of two statements
                continue
            if self._pgconn.status == pq.ConnStatus.BAD:
                raise psycopg.OperationalError("the connection to the database is lost")
            if result.status == _SYNC:
                return results
            results.append(result)

    async def _until_answered(self) -> None:
        while True:
            unsent = self._pgconn.flush()
            if not unsent and not self._pgconn.is_busy():
                return
            await self._until_ready(to_write=bool(unsent))
            self._pgconn.consume_input()

    async def _until_ready(self, *, to_write: bool) -> None:
        loop, socket = asyncio.get_running_loop(), self._pgconn.socket
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(socket, wake)
        if to_write:
            loop.add_writer(socket, wake)
        try:
            await ready
        finally:
            loop.remove_reader(socket)
            if to_write:
                loop.remove_writer(socket)

    def _rows(self, result: PGresult) -> Rows:
        if result.status != _ROWS:
            return []
        transformer = Transformer(self._connection)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)

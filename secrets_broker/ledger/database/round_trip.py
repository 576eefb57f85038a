"""One round trip: statements that are sent together and answered together.

The server parses and plans a statement when a connection first sends it. Afterwards only its name
and values travel; no value ever stands in a query's text. The name follows from the SQL, so a name
never stands for another statement, even if a pooler mixes sessions up. Statements use libpq's
pipeline mode, with only a Sync after the last. psycopg's own pipelines add a Flush, after which the
server no longer times an idle transaction: a frozen writer would hold the ledger's lock for ever.

A failed statement ends its round trip: the server skips those after it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq.abc import PGresult

from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.session.errors import POOLER
from secrets_broker.session.opening import is_mixed
from secrets_broker.session.prepared_names import name_of

_SYNC: Final = pq.ExecStatus.PIPELINE_SYNC
_FAILED: Final = pq.ExecStatus.FATAL_ERROR
_DONE: Final = pq.ExecStatus.COMMAND_OK
_ROWS: Final = pq.ExecStatus.TUPLES_OK

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement, and its values $1, $2 … in PostgreSQL's text format."""

    sql: LiteralString
    values: tuple[bytes | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a round trip: the rows of each statement, and the tag of the last."""

    rows: list[Rows]
    tag: str


@dataclass(frozen=True, slots=True)
class _Sent:
    sql: str
    is_execution: bool


class RoundTrips:
    """Sends statements over a connection that nobody else uses meanwhile."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._prepared: dict[str, bytes] = {}

    async def send(self, *statements: Statement) -> Answer:
        """Execute statements in one round trip.

        Raises psycopg.Error, and LedgerUnavailableError if this is no longer our session. If a
        caller is cancelled here, it must close the connection.
        """
        self._pgconn.enter_pipeline_mode()
        sent = [one for statement in statements for one in self._queue(statement)]
        self._pgconn.pipeline_sync()
        results = await self._results()
        self._pgconn.exit_pipeline_mode()
        for result in results:
            if result.status == _FAILED:
                self._forget(sent, results)
                error = error_from_result(result)
                raise LedgerUnavailableError(POOLER) if is_mixed(error) else error
        executed = [r for r, one in zip(results, sent, strict=True) if one.is_execution]
        tag = (executed[-1].command_status or b"").decode()
        return Answer([self._rows(result) for result in executed], tag)

    def _queue(self, statement: Statement) -> list["_Sent"]:
        """Queue one statement; return its parts, each of which gets a result."""
        sent = [_Sent(statement.sql, is_execution=True)]
        name = self._prepared.get(statement.sql)
        if name is None:
            name = self._prepared[statement.sql] = name_of(statement.sql)
            self._pgconn.send_prepare(name, statement.sql.encode())
            sent.insert(0, _Sent(statement.sql, is_execution=False))
        self._pgconn.send_query_prepared(name, statement.values, result_format=pq.Format.BINARY)
        return sent

    def _forget(self, sent: Sequence["_Sent"], results: Sequence[PGresult]) -> None:
        """Forget the statements that failed or were skipped: they are not prepared."""
        for one, result in zip(sent, results, strict=True):
            if not one.is_execution and result.status != _DONE:
                self._prepared.pop(one.sql, None)

    async def _results(self) -> list[PGresult]:
        results: list[PGresult] = []
        while True:
            await self._until_answered()
            result = self._pgconn.get_result()
            if result is None:  # separates the results of two statements
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

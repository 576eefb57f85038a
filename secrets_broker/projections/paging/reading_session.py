"""A read-only connection for questions, beside the writer's connection.

A process has one. It opens when it is first needed, and again after it was lost. Every question has
a time limit that includes waiting, so a database that does not answer costs a caller seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection

from secrets_broker.ledger.database.ledger_session import check_ours, connect
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.session import Session

_log = structlog.get_logger(__name__)

T = TypeVar("T")
Question = Callable[["AsyncConnection[Any]"], Awaitable[T]]

QUESTION_SECONDS: Final = 5.0  # and up to 5 more where the server does not accept a cancel
READ_SESSION: Final = {
    "default_transaction_read_only": "on",
    "lock_timeout": "2s",
    "statement_timeout": "4s",  # less than a question's time, so that the server cancels first
    "idle_in_transaction_session_timeout": "3s",
    "jit": "off",
}


class Reader:
    """Asks one question at a time."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._connection: Session | None = None
        self._lock = asyncio.Lock()

    async def ask(self, question: Question[T]) -> T:
        """Its answer; raises LedgerUnavailableError, and the question's own errors."""
        try:
            async with asyncio.timeout(QUESTION_SECONDS), self._lock:
                return await self._ask(question)
        except TimeoutError:
            raise LedgerUnavailableError("the database does not answer in time") from None
        except psycopg.Error as error:
            _log.warning("question_failed", sqlstate=error.sqlstate, kind=type(error).__name__)
            raise LedgerUnavailableError("the database refused a question") from None

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _ask(self, question: Question[T]) -> T:
        if self._connection is not None:
            try:
                return await self._once(self._connection, question)
            except psycopg.Error:
                # An idle connection may have been lost long ago, which only shows now. A question
                # changes nothing, so it can be asked again.
                if self._connection is not None:
                    raise
        self._connection = await connect(self._database_url, READ_SESSION)
        return await self._once(self._connection, question)

    async def _once(self, connection: Session, question: Question[T]) -> T:
        try:
            await check_ours(connection)
            return await question(connection)
        except psycopg.Error:
            if connection.closed:
                self._connection = None
            raise
        except BaseException:  # cancelled half-way: the state of the connection is unknown
            await self.close()
            raise

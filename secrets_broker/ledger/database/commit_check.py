"""When a commit is believed: the server says COMMIT, to the letter, and no warning came with it.

After a failed statement the tag is ROLLBACK with no error, and where the wait for a standby was
cancelled, by an operator or by a connection that broke, it is COMMIT with a warning. What is
visible proves less: a server that was killed while its commits waited shows them all once it is
started.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from psycopg import AsyncConnection
from psycopg.errors import Diagnostic

from secrets_broker.ledger.errors import OutcomeUnknownError

_log = structlog.get_logger(__name__)

_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"


def check_commit(tag: str | None, warnings: list[str]) -> None:
    """Raise OutcomeUnknownError where a commit cannot be believed."""
    if tag != "COMMIT" or warnings:
        _log.error("commit_not_certain", tag=tag, warnings=warnings)
        raise OutcomeUnknownError("the database did not confirm the commit as durable")


@asynccontextmanager
async def believed(connection: AsyncConnection[Any]) -> AsyncIterator[None]:
    """A transaction that has to write something. At its end, all that it saw is durable.

    Whatever it saw was committed before, so it comes before this commit in the server's log, and
    whoever has this commit has that too. Raises OutcomeUnknownError.
    """
    warnings: list[str] = []

    def note(diagnostic: Diagnostic) -> None:
        warnings.append(diagnostic.message_primary or "")

    await connection.execute(_BEGIN)
    try:
        yield
    except BaseException:
        await connection.rollback()
        raise
    connection.add_notice_handler(note)
    try:
        cursor = await connection.execute("COMMIT")
    finally:
        connection.remove_notice_handler(note)
    check_commit(cursor.statusmessage, warnings)

"""When a commit is believed: the server answers exactly COMMIT, without a warning.

After a failed statement the tag is ROLLBACK without an error. If the wait for a standby was
cancelled, by an operator or a broken connection, it is COMMIT with a warning. Visibility proves
less: a server that is killed while commits wait for a standby shows them all after its restart.
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
    """Raise OutcomeUnknownError if the commit cannot be believed."""
    if tag != "COMMIT" or warnings:
        _log.error("commit_not_certain", tag=tag, warnings=warnings)
        raise OutcomeUnknownError("the database did not confirm the commit as durable")


@asynccontextmanager
async def believed(connection: AsyncConnection[Any]) -> AsyncIterator[None]:
    """A transaction that must write something. At its end, all that it read is durable.

    What it read was committed earlier, so it precedes this commit in the server's log. A standby
    that has this commit has that too. Raises OutcomeUnknownError.
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

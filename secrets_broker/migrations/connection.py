"""The one connection that a migration runs in: checked, bounded in its waits, and locked.

The advisory lock is held by the connection that does the work. Whatever kills the work also
frees the lock, and never one without the other. A pooler that shares sessions between clients
breaks that: migrate over a direct connection.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from secrets_broker import session as sessions
from secrets_broker.migrations.errors import (
    BadDatabaseUrlError,
    CannotConnectError,
    MigrationRunningError,
    StatementError,
    UnfitServerError,
)
from secrets_broker.session import database_url as urls

Connection = psycopg.Connection[TupleRow]
Say = Callable[[str], None]

OLDEST_VERSION = 140000
# Ours alone among the advisory locks of a database: "sbmigrat" in ASCII.
LOCK_KEY = int.from_bytes(b"sbmigrat", "big")

# A migration takes as long as it takes; what it waits for is bounded by `locked`. Its files and
# yoyo's own remarks come as notices.
SESSION: Final = {"client_min_messages": "notice"}

# After a lost connection a COMMIT may or may not have counted; another run finds out.
_LOST = "the connection broke ({}). Run this again: it continues where it was"
_REFUSED = "{}. Nothing of it was kept"


@dataclass(frozen=True, slots=True)
class Server:
    """What we ask about a server before we change anything in it."""

    version: int
    encoding: str

    def check(self) -> None:
        """Raise UnfitServerError where the ledger could not live."""
        if self.version < OLDEST_VERSION:
            raise UnfitServerError(
                f"this is PostgreSQL {self.version // 10000}: 14 is the oldest that will do"
            )
        if self.encoding != "UTF8":
            raise UnfitServerError(
                f"the database's encoding is {self.encoding}: make one with ENCODING 'UTF8'"
            )


def connect(database_url: str, settings: Mapping[str, str] = SESSION) -> Connection:
    """A connection in autocommit; raises an error without the URL's password otherwise."""
    try:
        urls.parse(database_url)
        return sessions.connect_sync(database_url, settings, of_ledger=False)
    except urls.DatabaseUrlError as error:
        raise BadDatabaseUrlError(str(error)) from None
    except sessions.SessionError as error:
        raise CannotConnectError(f"cannot connect to the database: {error}") from None


@contextmanager
def locked(database_url: str, say: Say, wait_seconds: float) -> Iterator[Connection]:
    """A connection to a fit server that no other migration works on; the lock ends with it."""
    with connect(database_url) as connection:
        with explained("getting ready"):
            encoding = connection.info.parameter_status("server_encoding") or "unknown"
            Server(connection.info.server_version, encoding).check()
            # DDL waits for each user of a table, and everybody else then waits behind it.
            _set(connection, "lock_timeout", f"{round(wait_seconds * 1000)}ms")
            _lock(connection, say, wait_seconds)
        yield connection


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn an error of PostgreSQL into one of ours, which says at what it happened."""
    try:
        yield
    except psycopg.errors.LockNotAvailable:
        raise MigrationRunningError(
            f"{doing}: something else holds a lock on it for too long; nothing of it was kept. "
            "End that, then run this again"
        ) from None
    except psycopg.Error as error:
        after = _LOST if (error.sqlstate or "08").startswith(("08", "57P")) else _REFUSED
        raise StatementError(f"{doing}: {after.format(sessions.safe_message(error))}") from None


def _set(connection: Connection, name: str, value: str) -> None:
    connection.execute("SELECT set_config(%s, %s, false)", (name, value))


def _lock(connection: Connection, say: Say, wait_seconds: float) -> None:
    if connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK_KEY,)).fetchone() == (True,):
        return
    say(f"another migration is at work; waiting for it, {wait_seconds:g} s at most")
    try:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
    except psycopg.errors.LockNotAvailable:
        raise MigrationRunningError(
            f"another migration was still at work after {wait_seconds:g} s: nothing was done"
        ) from None

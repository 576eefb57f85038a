"""The tables of an earlier installation, as a migration set them aside, read in chunks by id.

One connection reads them and holds the lock by which only one import is at work: where it is
lost, both end. Each chunk is a statement of its own, so no snapshot grows old meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from secrets_broker.migrations.connection import Connection, connect
from secrets_broker.migrations.errors import MigrationError
from secrets_broker.session import safe_message
from secrets_broker.tools.import_legacy.legacy_rows import LegacyTable, R

CHUNK: Final = 500  # the writer commits them at once: it takes 512
# Ours alone among the advisory locks of a database: "sbimport" in ASCII.
LOCK_KEY: Final = int.from_bytes(b"sbimport", "big")

_SESSION: Final = {
    "application_name": "secrets-broker import-legacy",
    "statement_timeout": "60s",
    # What is there already is asked by key. Statistics from when the ledger was empty would
    # have it scanned for every chunk instead.
    "enable_seqscan": "off",
    "jit": "off",
}


class ImportRefusedError(Exception):
    """The import cannot be done as things are; says why, and holds no secret."""


class LegacyTables:
    """The set-aside tables, for the one import that is at work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, owner_url: str, service_url: str, wait_seconds: float) -> "LegacyTables":
        """Connect and wait for the advisory lock; raises ImportRefusedError."""
        connection = _connect(owner_url, wait_seconds)
        try:
            with _explained("getting ready"):
                _get_ready(connection, wait_seconds)
                _check_same_database(service_url)
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def close(self) -> None:
        """Close the connection, and with it give up the lock."""
        self._connection.close()

    def has(self, table: LegacyTable[R]) -> bool:
        """Tell whether the table is there."""
        return _exists(self._connection, f"secrets.{table.name}")

    def count(self, table: LegacyTable[R]) -> int:
        """How many rows there are to go through."""
        with _explained(f"counting secrets.{table.name}"):
            query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("secrets", table.name))
            return int(self._connection.execute(query).fetchall()[0][0])

    def chunk(self, table: LegacyTable[R], after: int) -> list[R]:
        """The next rows by id; raises ImportRefusedError."""
        with _explained(f"reading secrets.{table.name}"):
            cursor = self._connection.cursor(row_factory=class_row(table.row))
            return cursor.execute(table.query, (*table.parameters, after, CHUNK)).fetchall()


def _connect(database_url: str, wait_seconds: float = 0) -> Connection:
    waits = {"lock_timeout": f"{max(1, round(wait_seconds * 1000))}ms"}
    try:
        return connect(database_url, {**_SESSION, **waits})
    except MigrationError as error:
        raise ImportRefusedError(str(error)) from None


def _get_ready(connection: Connection, wait_seconds: float) -> None:
    if not _exists(connection, "ledger.events"):
        raise ImportRefusedError(
            "this database has no ledger yet: run `secrets-broker migrate`, then this again"
        )
    try:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
    except psycopg.errors.LockNotAvailable:
        raise ImportRefusedError(
            f"another import was still at work after {wait_seconds:g} s: nothing was done"
        ) from None


def _check_same_database(service_url: str) -> None:
    # In another database the lock that we hold is free. What is there would be looked for in
    # one ledger and written to the other, again at each run.
    with _connect(service_url) as connection:
        if connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK_KEY,)).fetchone() == (True,):
            raise ImportRefusedError(
                "DATABASE_URL and MIGRATION_DATABASE_URL are different databases: nothing was done"
            )


def _exists(connection: Connection, table: str) -> bool:
    with _explained(f"looking for {table}"):
        return connection.execute("SELECT to_regclass(%s)", (table,)).fetchall() != [(None,)]


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise ImportRefusedError(f"{doing}: {safe_message(error)}") from None

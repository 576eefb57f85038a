"""yoyo on one connection, with its tables in a schema of their own.

Left to itself, yoyo runs a migration in one connection and records it in another, so that a
kill between the two leaves a migration that was applied but is not known to be. Here both are
one transaction. The connection is handed in, so that yoyo never sees a password.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from psycopg import sql
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import Migration, MigrationList

from secrets_broker.migrations.connection import Connection
from secrets_broker.migrations.manifest import SqlFile

SCHEMA = "secrets_broker_migrations"

# Names and digests of public files: a service may ask whether its schema is there.
_OWN_TABLE = """
CREATE TABLE IF NOT EXISTS {schema}.applied (
    name       text        PRIMARY KEY,
    sha256     text        NOT NULL,
    by_hand    boolean     NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS {schema}.yoyo_lock (
    locked integer   PRIMARY KEY DEFAULT 1,
    ctime  timestamp,
    pid    integer   NOT NULL
);
GRANT USAGE ON SCHEMA {schema} TO PUBLIC;
GRANT SELECT ON {schema}.applied TO PUBLIC;
"""


_TABLES = "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = %s"


class Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]  # yoyo ships no types
    """yoyo's way to the database, narrowed to one transaction a migration."""

    def __init__(self, connection: Connection) -> None:
        self._given = connection
        _make_schema(connection)
        nothing = DatabaseURI("postgresql", None, None, None, None, connection.info.dbname, {})
        super().__init__(nothing, "_yoyo_migration")
        # Left by a process that was killed: we hold the real lock.
        self.break_lock()
        self.ensure_internal_schema_updated()

    def connect(self, dburi: object) -> Connection:
        """The connection that was handed in."""
        return self._given

    def init_connection(self, connection: Connection) -> None:
        """Nothing to set: the session is as it has to be, and yoyo's tables are qualified."""

    def list_tables(self, **_: Any) -> list[str]:
        """The tables in our schema; yoyo asks for those in the first one of search_path."""
        found = self._given.execute(_TABLES, (SCHEMA,)).fetchall()
        return [str(name) for (name,) in found]

    def quote_identifier(self, name: str) -> str:
        """yoyo names its own tables without a schema: here they get ours."""
        quoted = str(super().quote_identifier(name))
        own = (self.migration_table, self.log_table, self.lock_table, self.version_table)
        return f"{SCHEMA}.{quoted}" if name in own else quoted

    def get_log_data(
        self, migration: Migration | None = None, operation: str = "apply"
    ) -> dict[str, Any]:
        """What yoyo logs, without the system's user and name: a container may have neither."""
        return {
            "id": str(uuid4()),
            "migration_id": migration.id if migration else None,
            "migration_hash": migration.hash if migration else None,
            "username": self._given.info.user,
            "hostname": None,
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }

    def apply_file(self, migration: Migration, file: SqlFile) -> None:
        """Run a file and record it, or neither."""
        with self.transaction():
            migration.process_steps(self, "apply")
            self.log_migration(migration, "apply")
            self._record(migration, file, by_hand=False)

    def mark_files(self, migrations: MigrationList, files: tuple[SqlFile, ...]) -> None:
        """Record files that were run by hand."""
        with self.transaction():
            for migration, file in zip(migrations, files, strict=True):
                self.log_migration(migration, "mark")
                self._record(migration, file, by_hand=True)

    def roll_back_file(self, migration: Migration) -> None:
        """Run a file's rollback and forget the file, or neither."""
        with self.transaction():
            migration.process_steps(self, "rollback")
            self.log_migration(migration, "rollback")
            self.unmark_one(migration, log=False)
            # SCHEMA is our own constant.
            forget = f"DELETE FROM {SCHEMA}.applied WHERE name = :name"  # noqa: S608
            self.execute(forget, {"name": migration.id})

    def _record(self, migration: Migration, file: SqlFile, *, by_hand: bool) -> None:
        self.mark_one(migration, log=False)
        self.execute(
            f"INSERT INTO {SCHEMA}.applied (name, sha256, by_hand)"  # noqa: S608 - our own constant
            " VALUES (:name, :sha256, :by_hand)",
            {"name": file.name, "sha256": file.sha256, "by_hand": by_hand},
        )


def migrations_of(files: tuple[SqlFile, ...]) -> MigrationList:
    """yoyo's view of exactly these files; on its own it would take the folder's .py files too."""
    return MigrationList(
        Migration(file.name, str(file.path), str(file.path.parent)) for file in files
    )


def drop_schema(connection: Connection) -> None:
    """Remove every trace of the runner."""
    statement = sql.SQL("DROP SCHEMA IF EXISTS {schema} CASCADE")
    connection.execute(statement.format(schema=sql.Identifier(SCHEMA)))


def _make_schema(connection: Connection) -> None:
    statement = sql.SQL("CREATE SCHEMA IF NOT EXISTS {schema};" + _OWN_TABLE)
    with connection.transaction():
        connection.execute(statement.format(schema=sql.Identifier(SCHEMA)))

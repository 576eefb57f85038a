"""Write what the migrations make, as PostgreSQL says it: shipped.json, and schema.sql for people.

Run after a change to a migration, on the newest PostgreSQL that is at hand:

    python -m secrets_broker.tools.shipped
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg

from secrets_broker.migrations import present, runner
from secrets_broker.migrations.present import LAYOUT, ROWS, SchemaLayout
from secrets_broker.migrations.shipped import FILE, PINS, QUERIES, Catalogue, gathered, written
from secrets_broker.session import connect_sync
from secrets_broker.tools.postgres import Cluster


def catalogues(connection: "psycopg.Connection[Any]") -> Mapping[str, Catalogue]:
    """What a database's catalogue says of ours, by the names of QUERIES."""
    with connection.transaction():
        for name, value in PINS.items():
            connection.execute("SELECT set_config(%s, %s, true)", (name, value))
        return {
            kind: gathered(connection.execute(query.encode()).fetchall())
            for kind, query in QUERIES.items()
        }


def layouts(connection: "psycopg.Connection[Any]") -> list[SchemaLayout]:
    """What schema.sql says beside the catalogue."""
    found = []
    for name, columns, options, comments in connection.execute(LAYOUT.encode()).fetchall():
        rows = connection.execute(ROWS.format(name).encode()).fetchall()
        found.append(SchemaLayout(name, columns, options, comments, [row for (row,) in rows]))
    return found


def main() -> None:
    """Migrate a PostgreSQL of its own, ask it, and write the files."""
    folder = Path(tempfile.mkdtemp(prefix="secrets-broker-shipped-"))
    folder.chmod(0o711)  # as root, PostgreSQL's own account has to pass through
    try:
        with Cluster(folder) as cluster:
            cluster.ensure_database("shipped")
            url = cluster.superuser_url("shipped")
            runner.apply(url, lambda _: None)
            with connect_sync(url, {}) as connection:
                found = catalogues(connection)
                FILE.write_text(written(found), encoding="utf-8")
                schema = present.schema(found, layouts(connection))
                present.FILE.write_text(schema, encoding="utf-8")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

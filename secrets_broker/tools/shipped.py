"""Write secrets_broker/migrations/shipped.json: what the migrations make, as PostgreSQL says it.

Run after a change to a migration, on the newest PostgreSQL that is at hand:

    python -m secrets_broker.tools.shipped
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg

from secrets_broker.migrations import runner
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


def main() -> None:
    """Migrate a PostgreSQL of its own, ask it, and write the file."""
    folder = Path(tempfile.mkdtemp(prefix="secrets-broker-shipped-"))
    folder.chmod(0o711)  # as root, PostgreSQL's own account has to pass through
    try:
        with Cluster(folder) as cluster:
            cluster.ensure_database("shipped")
            url = cluster.superuser_url("shipped")
            runner.apply(url, lambda _: None)
            with connect_sync(url, {}) as connection:
                FILE.write_text(written(catalogues(connection)), encoding="utf-8")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

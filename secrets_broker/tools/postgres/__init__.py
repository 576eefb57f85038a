"""An embedded PostgreSQL, private to the user who runs the broker.

A supervisor over ready-made binaries: one cluster in the broker's data folder, reached only
through a Unix socket, only by that user (peer), with no password and no TCP port. Nothing here
knows the ledger.

    with Cluster(Path(".secrets-broker")) as cluster:
        cluster.ensure_database("secrets_broker")
        cluster.ensure_login("secrets_broker_dev")
        psycopg.connect(cluster.url("secrets_broker_dev", "secrets_broker"))
"""

from secrets_broker.tools.postgres.cluster import Cluster
from secrets_broker.tools.postgres.errors import (
    AccountError,
    BinariesError,
    FolderError,
    FolderInUseError,
    NotRunningError,
    PostgresError,
    StartError,
    StopError,
)
from secrets_broker.tools.postgres.layout import own_folder

__all__ = [
    "AccountError",
    "BinariesError",
    "Cluster",
    "FolderError",
    "FolderInUseError",
    "NotRunningError",
    "PostgresError",
    "StartError",
    "StopError",
    "own_folder",
]

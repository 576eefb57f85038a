"""A migrated database with three events, asked in the roles of the schema."""

import psycopg

Connection = psycopg.Connection[tuple[object, ...]]
SERVICE, AUDITOR = "secrets_broker_service", "secrets_broker_auditor"
BODY = {"key": "k", "sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}  # of nothing
KEK = "INSERT INTO ledger.keks (id, provider, state, canary) VALUES (%s, 'local', %s, '')"


def become(connection: Connection, role: str) -> None:
    """Be a login that only joined this role."""
    connection.execute(f"SET LOCAL ROLE {role}".encode())

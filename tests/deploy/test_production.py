"""The shipped roles: what each login may, and that its password is asked for."""

import psycopg
import pytest

from tests.deploy.production import Production


def test_roles(production: Production) -> None:
    """The owner migrates without being able to make roles; the service may only what it must."""
    owner, app = production.secret("migration_database_url"), production.secret("database_url")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("SELECT count(*) FROM ledger.events")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE ROLE another")
    with psycopg.connect(app, autocommit=True) as connection:
        connection.execute("SELECT count(*) FROM ledger.events")
        for refused in (
            "DELETE FROM ledger.events",
            "CREATE TABLE ledger.t ()",
            "DROP SCHEMA ledger",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused.encode())
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(app, password="another")
    assert "SCRAM" not in (production.home / "data.log").read_text()
    assert production.secret("app_password") not in (production.home / "data.log").read_text()

"""Who may put names into the schemas that others look them up in."""

from collections.abc import Iterator

import psycopg
import pytest

from secrets_broker.migrations import runner
from tests.migrations.conftest import Cluster, Databases, execute

CREATE = "SELECT has_schema_privilege('public', 'public', 'CREATE')"
OWNER = "plain_owner"


@pytest.fixture
def opened(empty_database: str) -> str:
    """As PostgreSQL 14 makes a database: everybody may create in public."""
    execute(empty_database, "GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC")
    return empty_database


@pytest.fixture
def owner(cluster: Cluster, databases: Databases) -> Iterator[str]:
    """The name of a login that may make roles, and owns what the test gives it."""
    execute(cluster.url("postgres"), f"CREATE ROLE {OWNER} LOGIN CREATEROLE")
    yield OWNER
    databases.drop()
    databases.made.clear()
    execute(cluster.url("postgres"), f"DROP ROLE {OWNER}")


def test_nobody_creates_in_public(opened: str) -> None:
    """Taken by every run, also where no file is missing; said once, and not again."""
    said: list[str] = []
    runner.apply(opened, said.append)
    assert execute(opened, CREATE) == [(False,)]
    assert sum("REVOKE CREATE ON SCHEMA public FROM PUBLIC: done" in line for line in said) == 1
    execute(opened, "GRANT CREATE ON SCHEMA public TO PUBLIC")
    said.clear()
    assert runner.apply(opened, said.append) == []
    assert execute(opened, CREATE) == [(False,)]
    said.clear()
    runner.apply(opened, said.append)
    assert said == []


def test_what_cannot_be_closed_is_named(
    cluster: Cluster, databases: Databases, opened: str, owner: str
) -> None:
    """An owner of the database who does not own public: a warning with the line, and it goes on."""
    name = psycopg.conninfo.conninfo_to_dict(opened)["dbname"]
    execute(opened, f"ALTER DATABASE {name} OWNER TO {owner}")
    execute(opened, "ALTER SCHEMA public OWNER TO postgres")
    said: list[str] = []
    assert runner.apply(cluster.url(str(name), owner), said.append)
    warning = next(line for line in said if line.startswith("warning: everybody may create"))
    assert "REVOKE CREATE ON SCHEMA public FROM PUBLIC" in warning
    assert execute(opened, CREATE) == [(True,)]


def test_other_grantees_are_named(opened: str, owner: str) -> None:
    """Whom somebody granted the right by name keeps it, and is named each time."""
    execute(opened, f"GRANT CREATE ON SCHEMA public TO {owner}")
    said: list[str] = []
    runner.apply(opened, said.append)
    assert f'REVOKE CREATE ON SCHEMA public FROM "{owner}"' in "\n".join(said)
    execute(opened, f"REVOKE CREATE ON SCHEMA public FROM {owner}")


def test_a_database_without_schema_public(empty_database: str) -> None:
    """Where somebody dropped it there is nothing to close."""
    execute(empty_database, "DROP SCHEMA public")
    said: list[str] = []
    assert runner.apply(empty_database, said.append)
    assert "REVOKE" not in "\n".join(said)

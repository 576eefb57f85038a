"""A login that is no superuser: owning the database, and the right to make roles, are enough."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
import pytest

from secrets_broker.migrations.errors import StatementError
from secrets_broker.migrations.runner import apply, count_events, pending, rollback
from tests import earlier
from tests.migrations.conftest import Databases, execute, roles
from tests.migrations.migration_files import NAMES, quiet


@dataclass(frozen=True, slots=True)
class Owner:
    """A database, by the URL of its owner and by that of the superuser."""

    url: str
    superuser_url: str


@pytest.fixture
def owner(databases: Databases, no_roles: Callable[[], None]) -> Iterator[Owner]:
    """A database whose owner may do nothing else."""
    cluster_url = databases.cluster.url("postgres")
    execute(cluster_url, "CREATE ROLE an_owner LOGIN")
    url = databases.make("OWNER an_owner")
    yield Owner(url.replace("postgres@", "an_owner@"), url)
    databases.drop()
    databases.made.clear()
    no_roles()
    execute(cluster_url, "DROP ROLE an_owner")


def test_an_owner_who_may_make_roles_needs_no_more(owner: Owner) -> None:
    """Apply, count, let a login join, roll back: without a superuser."""
    execute(owner.superuser_url, "ALTER ROLE an_owner CREATEROLE")
    execute(owner.url, earlier.TABLES)
    assert apply(owner.url, quiet) == NAMES
    assert (pending(owner.url), count_events(owner.url)) == ([], 0)
    execute(owner.url, "CREATE ROLE joined LOGIN", "GRANT secrets_broker_service TO joined")
    execute(owner.url, "DROP ROLE joined")
    assert rollback(owner.url, quiet) == NAMES[::-1]
    assert roles(owner.url) == set()
    execute(owner.url, earlier.UPSERT)


def test_where_the_roles_are_there_owning_the_database_is_enough(owner: Owner) -> None:
    """The roles stay after the rollback: they were somebody else's."""
    execute(owner.superuser_url, "CREATE ROLE secrets_broker_service")
    execute(owner.superuser_url, "CREATE ROLE secrets_broker_auditor")
    said: list[str] = []
    assert apply(owner.url, quiet) == NAMES
    assert rollback(owner.url, said.append) == NAMES[::-1]
    assert "role secrets_broker_auditor is used elsewhere and stays" in said
    assert len(roles(owner.url)) == 2


def test_without_the_roles_and_the_right_to_make_them_it_is_refused(owner: Owner) -> None:
    """The error names the file and what was not allowed."""
    with pytest.raises(StatementError, match=r"0002\.roles\.sql: permission denied to create role"):
        apply(owner.url, quiet)
    assert pending(owner.url) == NAMES[1:]


def test_the_service_cannot_migrate(owner: Owner) -> None:
    """A login that owns nothing is refused at once, and the record cannot be forged by it."""
    apply(owner.superuser_url, quiet)
    execute(owner.superuser_url, "GRANT secrets_broker_service TO an_owner")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        execute(owner.url, "DELETE FROM secrets_broker_migrations.applied")
    with pytest.raises(StatementError, match=r"permission denied|must be owner"):
        rollback(owner.url, quiet)
    assert pending(owner.superuser_url) == []

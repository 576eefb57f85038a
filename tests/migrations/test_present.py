"""schema.sql is what the migrations make, and makes what they make."""

import re
from collections.abc import Callable
from typing import Any

import psycopg

from secrets_broker.migrations import present
from secrets_broker.migrations.runner import apply
from secrets_broker.migrations.shipped import WRITE, Catalogue, shipped
from secrets_broker.tools.shipped import catalogues, layouts
from tests.migrations.conftest import Databases, run_program
from tests.migrations.migration_files import quiet


def of(url: str) -> tuple[dict[str, Catalogue], list[present.SchemaLayout]]:
    """All that there is to say of a database."""
    connection: psycopg.Connection[Any]
    with psycopg.connect(url) as connection:
        return dict(catalogues(connection)), layouts(connection)


def without_brackets(constraints: Catalogue) -> Catalogue:
    """As PostgreSQL writes (a AND b) AND c when it is given that again: a AND b AND c."""
    return {
        what: [{**one, "definition": re.sub("[()]", "", one["definition"])} for one in facts]
        for what, facts in constraints.items()
    }


def test_it_is_what_the_migrations_make(empty_database: str) -> None:
    """Where this fails after a change to a migration, run what it says.

    The catalogue's facts are those of shipped.json, since versions of PostgreSQL differ in how they
    write a view's query; that they are what the migrations make has a test of its own.
    """
    apply(empty_database, quiet)
    _, layout = of(empty_database)
    assert present.schema(shipped(), layout) == present.FILE.read_text("ascii"), f"run: {WRITE}"


def test_it_makes_what_the_migrations_make(
    databases: Databases, no_roles: Callable[[], None]
) -> None:
    """Alone by psql in an empty database: every fact that verify compares, and the first rows."""
    no_roles()
    made, migrated = databases.make(), databases.make()
    run_program("psql", made, "-X", "-v", "ON_ERROR_STOP=1", "-1", "-q", "-f", str(present.FILE))
    found, layout = of(made)
    apply(migrated, quiet)
    wanted, wanted_layout = of(migrated)
    for catalogue in (found, wanted):
        catalogue["constraints"] = without_brackets(catalogue["constraints"])
    for kind in wanted:
        assert found[kind] == wanted[kind]
    assert layout == wanted_layout

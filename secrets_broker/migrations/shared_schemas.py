"""Who else may put names into the schemas that others look them up in.

No session of ours looks anything up there. Other programs of the same database do, and in
PostgreSQL before 15 everybody may create in schema public.
"""

from collections.abc import Iterator
from typing import Final

import psycopg

from secrets_broker.migrations.connection import Connection, Say, explained

_OURS: Final = ("ledger", "secrets", "secrets_broker_migrations")

# Per schema and grantee; 0 stands for PUBLIC. A superuser's rights are no grant.
_OPEN: Final = """
    SELECT n.nspname, CASE a.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END
    FROM pg_namespace AS n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
    WHERE n.nspname = ANY (%s) AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner
    ORDER BY 1, 2 NULLS FIRST
"""
_FOREIGN: Final = """
    SELECT n.nspname, pg_get_userbyid(n.nspowner)
    FROM pg_namespace AS n JOIN pg_roles AS r ON r.oid = n.nspowner
    WHERE n.nspname = ANY (%s) AND NOT r.rolsuper AND NOT pg_has_role(n.nspowner, 'USAGE')
    ORDER BY 1
"""
_CLOSE: Final = "REVOKE CREATE ON SCHEMA public FROM PUBLIC"


def close(connection: Connection, say: Say) -> None:
    """Take CREATE on schema public from everybody, and name what stays open."""
    with explained("looking at who may create in which schema"):
        if ("public", None) in _open(connection) and _revoked(connection):
            say(f"{_CLOSE}: done, so that no name there can stand for another")
        for words in (*_words(connection), *_owners(connection)):
            say(f"warning: {words}")


def _revoked(connection: Connection) -> bool:
    # Died before it commits: it is as before, and the next run does it. Died after: it is done.
    try:
        connection.execute(_CLOSE)
    except psycopg.errors.InsufficientPrivilege:
        return False
    # Who may not is only warned by PostgreSQL, not refused, where it holds some other right.
    return ("public", None) not in _open(connection)


def _open(connection: Connection) -> list[tuple[str, str | None]]:
    return connection.execute(_OPEN, (["public", *_OURS],)).fetchall()


def _words(connection: Connection) -> Iterator[str]:
    for schema, grantee in _open(connection):
        who = "everybody" if grantee is None else f"the role {grantee}"
        role = "PUBLIC" if grantee is None else f'"{grantee}"'
        yield (
            f"{who} may create objects in schema {schema}. Unless that is meant, run as its owner: "
            f"REVOKE CREATE ON SCHEMA {schema} FROM {role}"
        )


def _owners(connection: Connection) -> Iterator[str]:
    for schema, owner in connection.execute(_FOREIGN, ([*_OURS],)).fetchall():
        yield f"schema {schema} belongs to {owner}, who may replace what is in it"

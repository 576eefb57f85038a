"""Rows are counted before COMMIT: what did not come to be stored is not answered.

Whatever stands between an INSERT and its table, be it a rule, a trigger, a row policy or a row that
somebody else put there, the batch is rolled back, callers get 503, and the service is unready
until rows are stored again.
"""

import asyncio

import psycopg
import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerUnavailableError, RowsMissingError
from tests.conftest import Database
from tests.ledger.helpers import CONTEXT, lookup, password_of, record, run, upsert, writing

_SKIP = """
    CREATE FUNCTION public.skip() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF {when} THEN RETURN NULL; END IF; RETURN NEW; END $$
"""
_BEFORE = (
    "CREATE TRIGGER skipped BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION public.skip()"
)
_UNDO = (
    "DROP TRIGGER IF EXISTS skipped ON {table}",
    "DROP RULE IF EXISTS nothing ON {table}",
    "DROP POLICY IF EXISTS hidden ON {table}",
    "ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
)
HINDRANCES = {
    "rule": ("CREATE RULE nothing AS ON INSERT TO {table} DO INSTEAD NOTHING",),
    "rule for some": (
        "CREATE RULE nothing AS ON INSERT TO {table} WHERE {some} DO INSTEAD NOTHING",
    ),
    "trigger": (_SKIP.format(when="true"), _BEFORE),
    "deferred trigger": (
        """CREATE FUNCTION public.take_away() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN EXECUTE format('DELETE FROM %I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME);
        RETURN NULL; END $$""",
        "ALTER TABLE {table} DISABLE TRIGGER USER",
        "CREATE CONSTRAINT TRIGGER skipped AFTER INSERT ON {table}"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.take_away()",
    ),
    "another table": (
        "CREATE TABLE public.child () INHERITS ({table})",
        "GRANT INSERT, SELECT ON public.child TO secrets_broker_service",
        "GRANT USAGE ON SCHEMA public TO secrets_broker_service",
        "CREATE RULE nothing AS ON INSERT TO {table} DO INSTEAD"
        " INSERT INTO public.child SELECT NEW.*",
    ),
    "policy": (
        "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY hidden ON {table} USING (false) WITH CHECK (true)",
    ),
}
TABLES = {
    "ledger.events": "NEW.type = 'credential.read'",
    "ledger.bodies": "true",
    "ledger.data_keys": "true",
    "secrets.host_credentials": "true",
}
CASES = [
    (table, hindrance)
    for table in TABLES
    for hindrance in HINDRANCES
    # A row of the projection that is taken away later is refused at lookup.
    if (table, hindrance) != ("secrets.host_credentials", "deferred trigger")
]


@pytest.mark.parametrize(("table", "hindrance"), CASES)
def test_what_is_not_stored_is_not_answered(
    database: Database, keyring: Keyring, table: str, hindrance: str
) -> None:
    """503 for a lookup and a new credential alike, no event; and all is well once it is gone."""
    record(database, keyring, upsert("a"))
    statements = [s.format(table=table, some=TABLES[table]) for s in HINDRANCES[hindrance]]
    size = "SELECT count(*) FROM ledger.events"

    async def attempt() -> None:
        async with writing(database.service_url, keyring) as writer:
            ((before,),) = database.fetch(size)
            with database.owner() as owner:
                for statement in statements:
                    owner.execute(statement.encode())
            commands = [upsert("b")] if table != "ledger.events" else [lookup("a"), lookup("b")]
            for command in commands:
                with pytest.raises(LedgerUnavailableError):
                    await writer.submit(command, CONTEXT)
            assert database.fetch(size) == [(before,)]
            if (table, hindrance) == ("ledger.events", "policy"):
                return  # what the ledger has is hidden, too: for this process that is the end
            with database.owner() as owner:
                for statement in _UNDO:
                    owner.execute(statement.format(table=table).encode())
                owner.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER".encode())
            await until_ready(writer)
            assert password_of(await writer.submit(lookup("a"), CONTEXT)) == "hunter2"

    run(attempt())


async def until_ready(writer: object) -> None:
    """Ask as the readiness probe does, until it is."""
    for _ in range(100):
        try:
            await writer.probe()  # type: ignore[attr-defined]
        except LedgerUnavailableError:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError("it never became ready again")


def test_it_is_unready_until_rows_are_stored_again(database: Database, keyring: Keyring) -> None:
    """A probe that records nothing tries an event, and rolls it back."""
    record(database, keyring, upsert("a"))

    async def attempt() -> None:
        async with writing(database.service_url, keyring) as writer:
            with database.owner() as owner:
                owner.execute(_SKIP.format(when="true").encode())
                owner.execute(_BEFORE.format(table="ledger.events").encode())
            with pytest.raises(RowsMissingError):
                await writer.submit(lookup("a"), CONTEXT)
            for _ in range(3):
                with pytest.raises(RowsMissingError):
                    await writer.probe()
            with database.owner() as owner:
                owner.execute("DROP TRIGGER skipped ON ledger.events")
            await until_ready(writer)

    before = database.fetch("SELECT count(*) FROM ledger.events")
    run(attempt())
    assert database.fetch("SELECT count(*) FROM ledger.events") == before


PLANTED = (
    "INSERT INTO ledger.nodes VALUES (1, 0, sha256('x'))",
    "INSERT INTO ledger.nodes VALUES (1, 7, sha256('x'))",
    "INSERT INTO ledger.nodes VALUES (2, 0, sha256('x'))",
    "INSERT INTO ledger.bodies SELECT max(position) + 1, 'x', 'x' FROM ledger.events",
    "INSERT INTO ledger.bodies SELECT max(position) + 100, 'x', 'x' FROM ledger.events",
    "INSERT INTO ledger.bodies VALUES (-1, 'x', 'x')",
    "INSERT INTO ledger.bodies VALUES (0, 'x', 'x')",
    "INSERT INTO ledger.checkpoints VALUES ('log.example', 100, sha256('x'), 'x')",
)


@pytest.mark.parametrize("statement", PLANTED)
def test_no_row_is_put_where_one_is_to_come(
    database: Database, keyring: Keyring, statement: str
) -> None:
    """Whoever has the service's login cannot take a place that an event will need."""
    record(database, keyring, upsert("a"))
    refused = pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState)
    with psycopg.connect(database.service_url) as thief, refused:
        thief.execute(statement.encode())


def test_a_row_where_one_is_to_come_is_no_callers_fault(
    database: Database, keyring: Keyring
) -> None:
    """503 and an alarm, not 400: here a live row with the id that the next credential gets."""
    record(database, keyring, upsert("a"))
    with psycopg.connect(database.service_url, autocommit=True) as thief:
        thief.execute(
            """
            INSERT INTO secrets.host_credentials
            SELECT (jsonb_populate_record(c, jsonb_build_object(
                'id', (SELECT max(position) + 2 FROM ledger.events), 'host', 'z'))).*
            FROM secrets.host_credentials AS c
            """
        )

    async def attempt() -> None:
        async with writing(database.service_url, keyring) as writer:
            with pytest.raises(RowsMissingError, match=r"secrets\.host_credentials"):
                await writer.submit(upsert("b"), CONTEXT)

    run(attempt())

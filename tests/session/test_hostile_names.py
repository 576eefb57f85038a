"""Names that others may put beside ours, in a schema that everybody may write."""

from pathlib import Path
from typing import Final

import psycopg
import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.migrations import runner
from secrets_broker.tools.postgres import Cluster
from tests.conftest import Database
from tests.ledger.helpers import delete, lookup, record, upsert
from tests.session.telling import told
from tests.tools.everything import NEW_KEY, everything
from tests.tools.verify.changing import KEY

TYPES: Final = (
    *("smallint", "integer", "bigint", "numeric", "text", "varchar", "name", "bytea", "jsonb"),
    *("json", "boolean", "timestamptz", "interval", "oid", "inet", "text[]", "bigint[]", "xid"),
)
OPERATORS: Final = ("=", "<>", "<", ">", "<=", ">=", "||", "->", "->>", "-", "+", "~~", "@>")
ONE: Final = (
    *("min", "max", "sum", "count", "bool_or", "bool_and", "array_agg", "jsonb_agg", "encode"),
    *("coalesce_", "octet_length", "char_length", "length", "format", "concat", "lower", "sha256"),
    *("jsonb_typeof", "to_jsonb", "to_json", "unnest", "quote_ident", "array_length", "abs"),
    *("current_setting", "pg_get_viewdef", "pg_get_triggerdef", "pg_get_functiondef", "floor"),
)
TWO: Final = (
    *("string_agg", "decode", "encode", "to_char", "concat_ws", "convert_to", "convert_from"),
    *(
        "jsonb_object_agg",
        "format",
        "concat",
        "strpos",
        "left",
        "generate_series",
        "array_position",
    ),
    *("has_table_privilege", "has_schema_privilege", "greatest_", "timezone", "date_trunc"),
)
# The trace stays, whatever the transaction comes to: a sequence is not rolled back.
TRACE: Final = """
    CREATE SEQUENCE public.ran;
    GRANT ALL ON SEQUENCE public.ran TO PUBLIC;
    CREATE FUNCTION public.trap() RETURNS text LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_catalog.nextval('public.ran'); RETURN NULL; END $$;
"""


def hostile() -> str:
    """Everything that is a better match for some arguments than what pg_catalog has."""
    statements = [TRACE]
    body = "LANGUAGE sql AS $$ SELECT public.trap()::%s $$"
    for left in TYPES:
        for right in TYPES:
            arguments = f"a {left}, b {right}"
            for name in TWO:
                statements.append(
                    f"CREATE FUNCTION public.{name}({arguments}) RETURNS text {body % 'text'}"
                )
            statements.append(
                f"CREATE FUNCTION public.op({arguments}) RETURNS boolean {body % 'boolean'}"
            )
            statements += [
                f"CREATE OPERATOR public.{operator} (FUNCTION = public.op,"
                f" LEFTARG = {left}, RIGHTARG = {right})"
                for operator in OPERATORS
            ]
        for name in ONE:
            statements.append(
                f"CREATE FUNCTION public.{name}(a {left}) RETURNS text {body % 'text'}"
            )
    # The one of the report: an aggregate that stands for string_agg(bytea, bytea).
    statements.append("DROP FUNCTION public.string_agg(bytea, text)")
    statements.append(
        f"CREATE FUNCTION public.take(s bytea, b bytea, t text) RETURNS bytea {body % 'bytea'}"
    )
    statements.append(
        "CREATE AGGREGATE public.string_agg(bytea, text) (SFUNC = public.take, STYPE = bytea)"
    )
    statements += [
        f"CREATE DOMAIN public.{name} AS text CHECK (public.trap() IS NOT NULL)"
        for name in ("timestamptz", "bigint", "jsonb", "bytea", "inet", "regclass")
    ]
    statements += [f"CREATE TABLE public.{name} (id int)" for name in ("events", "keks", "applied")]
    return ";\n".join(statements)


def ran(database: Database) -> bool:
    """Whether anything of it was called."""
    return bool(database.fetch("SELECT is_called FROM public.ran")[0][0])


@pytest.fixture
def attacked(database: Database) -> Database:
    """A schema public as PostgreSQL 14 has it, and an attacker who used that."""
    database.execute("GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC")
    database.execute("SET check_function_bodies = off;" + hostile())
    return database


COMMANDS: Final = (
    "events --json",
    "history h05 ssh --json",
    "exposure h05 ssh --json",
    "unused --since 2120-01-01T00:00:00Z",
    "due",
    "access list --all",
    "access grant bob --allow read --host h* --purpose *",
    "access explain bob read h05 ssh",
    "replay --at 100",
    "replay --diff 10 200",
    "replay --at 100 --reveal --host h05 --reason test --yes",
    "proof 5",
    "verify",
    "export out",
    "rebuild --check",
    "rebuild",
    "rotate-key --check",
    "rotate-key --data-keys",
    "erase h07 ssh --yes --reason test",
    "erase --list",
    "import-legacy",
    "watch --once --from 0",
    "migrate",
)


def test_nobody_can_have_the_service_or_a_tool_run_what_is_his(
    attacked: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """The writer, every command, and the owner among their logins: nothing of public is called."""
    everything(attacked, keyring)
    record(attacked, Keyring.from_kms_keys(NEW_KEY), upsert("z"), lookup("z"), delete("z"))
    assert not ran(attacked)
    env = {
        "DATABASE_URL": attacked.owner_url,
        "MIGRATION_DATABASE_URL": attacked.owner_url,
        "SECRETS_KMS_KEY": NEW_KEY,
        "LEDGER_VERIFIER_KEY": str(KEY.verifier),
    }
    outcomes = told(COMMANDS, tmp_path, env)
    assert not ran(attacked)
    assert {command: said for command, said in outcomes.items() if said[0]} == {}


def test_the_trap_is_one(attacked: Database) -> None:
    """A session that looks names up in public does run what is there."""
    with psycopg.connect(attacked.owner_url, autocommit=True) as connection:
        connection.execute("SELECT string_agg('\\x00'::bytea, ''::text)")
    assert ran(attacked)


def test_migrations_run_nothing_of_public(cluster: Cluster, empty_database: str) -> None:
    """The files, yoyo's own tables, and the list of what is there: from nothing, and back."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC")
        connection.execute(("SET check_function_bodies = off;" + hostile()).encode())
    assert runner.pending(empty_database)
    assert runner.apply(empty_database, lambda _: None)
    assert runner.apply(empty_database, lambda _: None) == []
    assert runner.count_events(empty_database) == 0
    assert runner.rollback(empty_database, lambda _: None)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        assert connection.execute("SELECT is_called FROM public.ran").fetchone() == (False,)

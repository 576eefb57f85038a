"""What is told of PostgreSQL's errors: one place says it, and never a value of a row."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secrets_broker
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.session import safe_message, with_grant
from secrets_broker.tools.postgres import Cluster
from tests.conftest import fresh_database

PACKAGE = Path(secrets_broker.__file__).parent
HOME = PACKAGE / "session" / "errors.py"
OUTBOUND = PACKAGE / "outbound"
"""It asks no database, and imports nothing of ours that does."""

# What of an error quotes no value; its message is for safe_message alone to judge.
HARMLESS = {"sqlstate", "severity_nonlocalized", "schema_name", "table_name"}
HOLDING = {"args", "diag", "pgresult", "pgconn"}
SAYING = {"str", "repr", "print", "format"}
QUOTING = {"message_detail", "message_hint", "context", "message_primary", "internal_query"}


def told_in(source: str) -> Iterator[str]:
    """Where a module makes words of an error that may be PostgreSQL's."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    imported = names_of_psycopg(tree)
    for node in ast.walk(tree):
        for scope, name in caught(node, imported):
            for use in ast.walk(scope):
                if isinstance(use, ast.Name) and use.id == name and is_told(use, parents):
                    yield f"{use.lineno}: {ast.unparse(parents[use])}"
        if isinstance(node, ast.Attribute) and node.attr in QUOTING and is_diag(node.value):
            yield f"{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.keyword) and node.arg == "exc_info":
            yield f"{node.value.lineno}: exc_info"
        if isinstance(node, ast.Attribute) and node.attr == "exception" and is_log(node.value):
            yield f"{node.lineno}: {ast.unparse(node)}"


def names_of_psycopg(tree: ast.Module) -> set[str]:
    """What a module imports from psycopg, or calls it."""
    return {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).startswith("psycopg")
    }


def caught(node: ast.AST, imported: set[str]) -> Iterator[tuple[ast.AST, str]]:
    """Where an error that may be PostgreSQL's has a name, and which."""
    if isinstance(node, ast.ExceptHandler) and node.name and foreign(node.type, imported):
        yield node, node.name
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
            if foreign(argument.annotation, imported):
                yield node, argument.arg


def foreign(kind: ast.expr | None, imported: set[str]) -> bool:
    """Whether a type is one of psycopg's errors, or so wide that they are among it."""
    if kind is None:
        return False
    text = ast.unparse(kind)
    if text.removesuffix(" | None") in {"Exception", "BaseException"}:
        return True
    names = {one.id for one in ast.walk(kind) if isinstance(one, ast.Name)}
    return bool(names & imported) and ("Error" in text or "errors" in text)


def is_told(use: ast.Name, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a name is used for anything but what quotes no value."""
    parent = parents[use]
    if isinstance(parent, ast.Attribute):
        beyond = parents[parent]
        harmless = isinstance(beyond, ast.Attribute) and beyond.attr in HARMLESS
        return parent.attr in HOLDING and not harmless
    if isinstance(parent, ast.Call) and use in parent.args:
        function = ast.unparse(parent.func)
        # A class of errors would keep it as its text; a function of ours is looked at itself.
        is_class = function.rpartition(".")[2].lstrip("_")[:1].isupper()
        return is_class or function in SAYING or is_log(parent.func)
    if isinstance(parent, ast.Raise):
        return use is parent.cause  # a traceback would print it, with all its lines
    return not isinstance(parent, ast.Match)


def is_diag(node: ast.expr) -> bool:
    """Whether it is an error's diagnostics."""
    return isinstance(node, ast.Attribute) and node.attr == "diag"


def is_log(node: ast.expr) -> bool:
    """Whether it is a logger, or a method of one."""
    return ast.unparse(node).partition(".")[0] in {"_log", "log", "logger", "logging"}


def test_nothing_else_puts_an_error_of_postgresql_in_words() -> None:
    """No text, no log, no cause: whoever tells of one asks safe_message."""
    found = {
        str(path.relative_to(PACKAGE)): [*told_in(path.read_text())]
        for path in PACKAGE.rglob("*.py")
        if path != HOME and OUTBOUND not in path.parents
    }
    assert {path: told for path, told in found.items() if told} == {}
    assert [*told_in(HOME.read_text())]


HANDLER = "import psycopg\ntry: f()\nexcept psycopg.Error as error: "


@pytest.mark.parametrize(
    "source",
    [
        HANDLER + "say(str(error))",
        HANDLER + "raise Ours(f'no: {error}') from None",
        HANDLER + "raise Ours(error) from None",
        HANDLER + "raise Ours('no') from error",
        HANDLER + "say(error.diag.message_detail)",
        HANDLER + "say('%s' % error)",
        HANDLER + "say(error.args)",
        HANDLER + "_log.error('no', why=error)",
        HANDLER + "_log.error('no', exc_info=True)",
        HANDLER + "_log.exception('no')",
        "try: f()\nexcept Exception as error: say(str(error))",
        "from psycopg import errors\ntry: f()\nexcept errors.UniqueViolation as e: say(repr(e))",
        "from psycopg import Error\ndef why(error: Error) -> str: return str(error)",
        "import psycopg\ntry: f()\nexcept (KeyError, psycopg.Error) as error: say(str(error))",
    ],
)
def test_the_rule_finds_what_it_is_for(source: str) -> None:
    """Each way to tell what PostgreSQL quotes is one that the rule sees."""
    assert [*told_in(source)]


TABLES = """
    CREATE TYPE kind AS ENUM ('ssh');
    CREATE DOMAIN short AS text CHECK (length(VALUE) < 3);
    CREATE TABLE held (
        name text NOT NULL UNIQUE, kind kind, short short, number int,
        part varchar(4), parent text REFERENCES held (name),
        CONSTRAINT never CHECK (number IS NULL OR number < 0)
    );
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no row is taken' USING DETAIL = NEW.name, HINT = NEW.name; END $$;
    CREATE TABLE refusing (name text);
    CREATE TRIGGER refuse BEFORE INSERT ON refusing FOR EACH ROW EXECUTE FUNCTION refuse();
"""
STATEMENTS = (
    "INSERT INTO held (name) VALUES (%(value)s), (%(value)s)",
    "INSERT INTO held (name, number) VALUES (%(value)s, 1)",
    "INSERT INTO held (name, parent) VALUES ('a', %(value)s)",
    "INSERT INTO held (name, short) VALUES ('a', %(value)s)",
    "INSERT INTO held (name, part) VALUES ('a', %(value)s)",
    "INSERT INTO held (part) VALUES (left(%(value)s, 4))",
    "INSERT INTO refusing VALUES (%(value)s)",
    *(
        f"SELECT %(value)s::text::{kind}"
        for kind in ("kind", "int", "bigint", "numeric", "float8", "timestamptz", "date", "uuid",
                     "inet", "jsonb", "bool", "interval", "point")
    ),
    "SELECT (repeat('9', 40) || length(%(value)s))::int",
    "SELECT to_date(%(value)s, 'YYYY-MM-DD')",
    "SELECT 'a' ~ ('(' || %(value)s)",
    "SELECT decode(%(value)s, 'hex')",
    "SELECT encode('', %(value)s)",
    "SELECT jsonb_path_query('{}', ('$.' || %(value)s || '(')::jsonpath)",
    "SELECT set_config('work_mem', %(value)s, false)",
    "SELECT chr(-length(%(value)s))",
    "SELECT 1 / (length(%(value)s) - length(%(value)s))",
)  # fmt: skip
values = st.from_regex(r"m4rk[a-z]{4,12}( [a-z0-9]{1,9})?", fullmatch=True)


@pytest.fixture(scope="module")
def tables(cluster: Cluster) -> Iterator["psycopg.Connection[Any]"]:
    """A connection to a database with a table that refuses in many ways."""
    with (
        fresh_database(cluster, "template0") as made,
        psycopg.connect(made.owner_url, autocommit=True) as connection,
    ):
        connection.execute(TABLES)
        yield connection


@pytest.mark.parametrize("statement", STATEMENTS)
@settings(max_examples=5, deadline=None)
@given(value=values)
def test_no_value_of_a_row_is_told(
    tables: "psycopg.Connection[Any]", statement: str, value: str
) -> None:
    """Whatever PostgreSQL refuses, and wherever it quotes what it was given."""
    with pytest.raises(psycopg.Error) as caught, tables.transaction(force_rollback=True):
        tables.execute(statement.encode(), {"value": value})
    for told in (safe_message(caught.value), with_grant(caught.value)):
        assert told
        assert "\n" not in told
        assert "m4rk" not in told


def test_what_is_told_says_why(tables: "psycopg.Connection[Any]") -> None:
    """The message where it quotes nothing, the kind and SQLSTATE where it might."""
    told = {}
    for statement in STATEMENTS[:1], STATEMENTS[8:9], ("SELECT 1 / 0",):
        with pytest.raises(psycopg.Error) as caught:
            tables.execute(statement[0].encode(), {"value": "m4rker"})
        told[caught.value.sqlstate] = safe_message(caught.value)
    assert told == {
        "23505": 'duplicate key value violates unique constraint "held_name_key"',
        "22P02": "InvalidTextRepresentation (SQLSTATE 22P02)",
        "22012": "division by zero",
    }


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (psycopg.OperationalError("the connection is lost\nand more"), "the connection is lost"),
        (psycopg.OperationalError(), "OperationalError"),
        (psycopg.DataError("cannot dump m4rker"), "DataError"),
        (psycopg.errors.UniqueViolation("m4rker"), "UniqueViolation (SQLSTATE 23505)"),
        (LedgerUnavailableError("no such host"), "no such host"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (TimeoutError(), "TimeoutError"),
        (ValueError("m4rker"), "unexpected ValueError"),
        (KeyError("m4rker"), "unexpected KeyError"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_only_what_was_foreseen_is_told_in_its_own_words(error: Exception, told: str) -> None:
    """Ours, the system's and libpq's; of everything else, what kind it is."""
    assert safe_message(error) == with_grant(error) == told

"""The tables: what PostgreSQL would answer, in files that anybody can ask."""

import json
from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.commands import Command, ImportAccess, Record
from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.event_types import ACCESS_COUNTED, ACCESS_COUNTING, ACCESS_IMPORTED
from secrets_broker.ledger.events import NO_KEY, Context, Event, Subject
from secrets_broker.ledger.transparency_log.merkle import Node
from secrets_broker.ledger.transparency_log.stored_entries import StoredEntry, read_rows
from secrets_broker.tools.export.access_log import access_type
from secrets_broker.tools.export.folder import Folder
from secrets_broker.tools.export.parquet import RANGE, Parts, first_missing, part_name
from tests.conftest import Database
from tests.ledger.checkpoints import publish_checkpoint
from tests.ledger.helpers import CONTEXT, lookup, record, run, texts, times, upsert, writing
from tests.projections.command_strategies import KEY_CHANGES, change_keys, commands
from tests.tools.export.helpers import exported

WHO_READ_WHAT = """
    SELECT accessed_by, access_type, host, success, count(*) FROM {}
    GROUP BY accessed_by, access_type, host, success ORDER BY 1, 2, 3, 4
"""
VIEW = """
    SELECT id, credential_id, host, purpose, accessed_by, access_type, success, error_message,
           host(ip_address), accessed_at, version, authn, request_id, reason
    FROM secrets.credential_access_log ORDER BY id
"""
EVENTS = """
    SELECT position, v, type, at, occurred_at, actor, authn, ip, request_id, reason, host, purpose,
           credential_id, version, ok, error, details, body ->> 'key', body ->> 'sha256', leaf_hash
    FROM ledger.events ORDER BY position
"""

details_keys = st.text("abcdefgh_", min_size=1, max_size=5)
details_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(details_keys, inner, max_size=4),
    max_leaves=6,
)
imports = st.builds(
    lambda ok, at, kind, message: ImportAccess(
        host="old",
        purpose="ssh",
        ok=ok,
        credential_id=None,
        occurred_at=at,
        details={"legacy_id": 1, "access_type": kind, "error_message": message},
    ),
    st.booleans(),
    st.none() | times,
    st.none() | texts,
    st.none() | texts,
)
contexts = st.builds(
    Context,
    actor=st.none() | texts,
    authn=st.sampled_from(["internal_key", "none"]),
    subject=st.none() | st.just(Subject(problem=NO_KEY)),
    claim=st.none() | texts,
    # An IPv4 address that is mapped into IPv6 is written as IPv4: see docs/format.md.
    ip=st.none()
    | st.ip_addresses().filter(lambda ip: not getattr(ip, "ipv4_mapped", None)).map(str),
    request_id=st.none() | texts,
    reason=st.none() | texts,
)


async def _record(database: Database, keyring: Keyring, steps: list[Any]) -> None:
    async with writing(database.service_url, keyring) as writer:
        for step in steps:
            if step in KEY_CHANGES:
                await change_keys(database, keyring, step)
            else:
                await writer.submit(*step)


def _rows(database: Database) -> list[StoredEntry]:
    async def read() -> list[StoredEntry]:
        async with await connect(database.service_url) as connection:
            return await read_rows(connection, 0, RANGE)

    return run(read())


def table(folder: Path, kind: str) -> list[tuple[Any, ...]]:
    """All rows of a table, by position."""
    found = pq.read_table(folder / "parquet" / kind)
    return [tuple(row.values()) for row in found.to_pylist()]


sources = {"source": st.none() | texts}
whole, moments = st.integers(0, 2**53 - 1), st.none() | times.map(rfc3339)
counting = st.builds(Record, type=st.just(ACCESS_COUNTING), details=st.fixed_dictionaries(sources))
counted = st.builds(
    Record,
    type=st.just(ACCESS_COUNTED),
    details=st.fixed_dictionaries(
        {**sources, "counting": whole, "count": whole, "first_at": moments, "last_at": moments}
    ),
)
any_command: st.SearchStrategy[Command] = commands | imports | counting | counted


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(any_command, contexts) | st.sampled_from(KEY_CHANGES), max_size=8))
def test_the_tables_are_the_view_and_the_events(
    database: Database, keyring: Keyring, tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    """Row by row and column by column, whatever was done, failures, imports and erasures too."""
    run(_record(database, keyring, steps))
    made = tmp_path_factory.mktemp("parquet")
    parts = Parts(Folder(made, private=False), 0)
    parts.add(_rows(database), [])
    parts.finish()
    if not (made / "parquet").exists():
        assert database.fetch(VIEW) == []
        return
    assert table(made, "access_log") == database.fetch(VIEW)
    events = [
        (*row[:16], None if row[16] is None else json.loads(row[16]), *row[17:])
        for row in table(made, "events")
    ]
    assert events == [(*row[:19], bytes(row[19])) for row in database.fetch(EVENTS)]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(details_keys, details_values, max_size=4))
def test_a_value_of_details_is_the_text_that_postgresql_makes_of_it(
    answers: "psycopg.Connection[Any]", value: dict[str, Any]
) -> None:
    """Objects too, whose keys jsonb keeps in an order of its own."""
    event = Event(type=ACCESS_IMPORTED, at="", authn="none", details={"access_type": value})
    row = answers.execute("SELECT %s::jsonb ->> 'access_type'", (json.dumps(event.details),))
    assert row.fetchone() == (access_type(event),)


@pytest.fixture
def answers(owner_url: str) -> "Iterator[psycopg.Connection[Any]]":
    """A PostgreSQL to ask."""
    with psycopg.connect(owner_url) as connection:
        yield connection


@pytest.fixture
def filled(database: Database, keyring: Keyring) -> Database:
    """Two callers, two hosts, and a lookup of what is not there."""
    record(database, keyring, upsert("a"), upsert("b"), *[lookup("a")] * 20, lookup("none"))
    other = Context(actor="backup", authn="internal_key", ip="2001:db8::1")

    async def read() -> None:
        async with writing(database.service_url, keyring) as writer:
            for host in ("a", "a", "b"):
                await writer.submit(lookup(host), other)

    run(read())
    publish_checkpoint(database)
    return database


def test_duckdb_answers_who_read_what(filled: Database, tmp_path: Path) -> None:
    """The same as PostgreSQL's answer."""
    exported(filled, tmp_path / "out")
    files = f"'{tmp_path}/out/parquet/access_log/*.parquet'"
    answer = duckdb.connect().execute(WHO_READ_WHAT.format(files)).fetchall()
    assert answer == filled.fetch(WHO_READ_WHAT.format("secrets.credential_access_log"))
    assert ("backup", "read", "a", True, 2) in answer
    assert (CONTEXT.actor, "read", "none", False, 1) in answer


def test_duckdb_reads_times_and_addresses(filled: Database, tmp_path: Path) -> None:
    """A time is a point in time, in UTC; an address is a text."""
    exported(filled, tmp_path / "out")
    events, log = (
        f"'{tmp_path}/out/parquet/{kind}/*.parquet'" for kind in ("events", "access_log")
    )
    query = f"""
        SELECT epoch_us(max(l.accessed_at)), max(e.at) = max(l.accessed_at), max(l.ip_address)
        FROM {log} AS l JOIN {events} AS e ON e.position = l.id WHERE l.accessed_by = 'backup'
    """  # noqa: S608 - paths of this test's own
    wanted = "SELECT (extract(epoch FROM max(at)) * 1000000)::bigint FROM ledger.events"
    ((last,),) = filled.fetch(wanted)
    (found,) = duckdb.connect().execute(query).fetchall()
    assert (found[0], found[1], str(ip_interface(found[2]).ip)) == (last, True, "2001:db8::1")


def test_the_last_file_is_replaced_as_it_grows(
    filled: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """One file for its range, and what was left out meanwhile is filled in."""
    out = tmp_path / "out"
    exported(filled, out, "--no-parquet")
    assert not (out / "parquet").exists()
    for size in (27, 28):
        if size == 28:
            record(filled, keyring, lookup("b"))
            publish_checkpoint(filled)
        exported(filled, out)
        names = [path.name for path in sorted((out / "parquet").rglob("*.parquet"))]
        assert names == ["part-000000000000.parquet"] * 2
        assert [row[0] for row in table(out, "events")] == list(range(size))


def _full(rows: list[StoredEntry], subtree: bytes) -> tuple[list[StoredEntry], list[Node]]:
    return rows, [Node(2, 0, subtree)]


def test_a_full_file_is_known_by_its_subtree(filled: Database, tmp_path: Path) -> None:
    """It is made again only where the ledger has another node there, or a file is lost."""
    last = _rows(filled)[-1]
    made = Folder(tmp_path, private=False)
    parts = Parts(made, 0)
    parts.add(*_full([StoredEntry(RANGE - 1, last.leaf, last.entry)], b"\1" * 32))
    parts.finish()
    assert first_missing(made, []) == 0
    assert first_missing(made, [b"\1" * 32]) == RANGE
    assert first_missing(made, [b"\1" * 32, b"\3" * 32]) == RANGE
    assert first_missing(made, [b"\2" * 32]) == 0
    (tmp_path / part_name("access_log", 0)).unlink()
    assert first_missing(made, [b"\1" * 32]) == 0
    (tmp_path / part_name("events", 0)).write_bytes(b"PAR1 not at all")
    assert first_missing(made, [b"\1" * 32]) == 0

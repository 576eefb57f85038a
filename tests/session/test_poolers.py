"""A pooler that keeps sessions apart works; one that mixes them is refused, in words."""

import asyncio
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.database.ledger_session import SESSION, connect
from secrets_broker.ledger.database.round_trip import RoundTrips, Statement
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.migrations import runner
from secrets_broker.migrations.errors import CannotConnectError
from secrets_broker.projections.paging.position_walk import size
from secrets_broker.projections.paging.reading_session import Reader
from secrets_broker.session.prepared_names import name_of
from secrets_broker.tools.postgres import Cluster
from tests.conftest import Database
from tests.ledger.helpers import BEGUN, CONTEXT, lookup, password_of, run, upsert, writing
from tests.session.pooler import PROGRAM, Pooler, knows, pooling
from tests.tools.command_line import run as command

needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="needs pgbouncer")
WORD = "pool by session"
MIXING = [{}, {"server_reset_query_always": "1"}, {"ignore_startup_parameters": "options"}]
if PROGRAM and knows("max_prepared_statements"):
    MIXING += [{"max_prepared_statements": "0"}, {"max_prepared_statements": "200"}]


@needs_pgbouncer
@pytest.mark.parametrize("ignored", ["options", "extra_float_digits"])
def test_session_pooling_works(
    cluster: Cluster, database: Database, keyring: Keyring, ignored: str
) -> None:
    """With options dropped, or refused: every setting of a session takes all the same."""

    async def through_it(pooler: Pooler) -> None:
        url = pooler.url(database.name)
        async with await connect(url) as connection:
            for name, value in SESSION.items():
                cursor = await connection.execute("SELECT current_setting(%s)", (name,))
                assert await cursor.fetchall() == [(value,)]
        async with writing(url, keyring) as writer:
            await writer.submit(upsert("a", "kept"), CONTEXT)
            assert password_of(await writer.submit(lookup("a"), CONTEXT)) == "kept"
        reader = Reader(url)
        assert await reader.ask(size) == BEGUN + 2
        await reader.close()

    with pooling(cluster, "session", ignore_startup_parameters=ignored) as pooler:
        run(through_it(pooler))
        assert runner.apply(pooler.owner_url(database.name), lambda _: None) == []


@needs_pgbouncer
@pytest.mark.parametrize("settings", MIXING, ids=str)
@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_mixes_sessions_is_refused(
    cluster: Cluster,
    database: Database,
    keyring: Keyring,
    mode: str,
    settings: dict[str, str],
    tmp_path: Path,
) -> None:
    """At the start, by the writer, a reader, a command and the migrations; nothing is recorded."""

    async def through_it(url: str) -> None:
        with pytest.raises(LedgerUnavailableError, match=WORD):
            async with writing(url, keyring) as writer:
                await writer.probe()
        with pytest.raises(LedgerUnavailableError, match=WORD):
            await Reader(url).ask(size)

    with pooling(cluster, mode, **settings) as pooler:
        run(through_it(pooler.url(database.name)))
        env = {"DATABASE_URL": pooler.url(database.name)}
        done = command("events", cwd=tmp_path, env=env)
        assert (done.returncode != 0, WORD in done.stderr) == (True, True)
        with pytest.raises(CannotConnectError, match=WORD):
            runner.apply(pooler.owner_url(database.name), lambda _: None)
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(0,)]


@needs_pgbouncer
def test_a_pooler_that_begins_to_mix_sessions(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """Its mode is changed under a running service: the first batch elsewhere is refused."""

    async def through_it(pooler: Pooler) -> None:
        url = pooler.url(database.name)
        async with writing(url, keyring) as writer:
            await writer.submit(upsert("a"), CONTEXT)
            reader = Reader(url)
            assert await reader.ask(size) == BEGUN + 1
            await asyncio.to_thread(pooler.configure, "transaction")
            await writer.probe()  # at its end the session is given back
            assert await reader.ask(size) == BEGUN + 1
            taking = [await psycopg.AsyncConnection.connect(url) for _ in range(2)]
            for other in taking:  # in a transaction: each holds a session of the pool's
                await other.execute("SELECT 1")
            for _ in range(2):
                with pytest.raises(LedgerUnavailableError, match=WORD):
                    await writer.submit(lookup("a"), CONTEXT)
                with pytest.raises(LedgerUnavailableError, match=WORD):
                    await reader.ask(size)
            for other in taking:
                await other.close()
            await reader.close()

    with pooling(cluster, "session") as pooler:
        run(through_it(pooler))
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(BEGUN + 1,)]


@pytest.mark.parametrize("reset", ["DISCARD ALL", "RESET ALL", "DEALLOCATE ALL"])
def test_a_session_that_was_reset_is_refused(database: Database, reset: str) -> None:
    """Whoever resets our session between two batches: the next does nothing, and says why."""

    async def through_it() -> None:
        async with await connect(database.service_url) as connection:
            trips = RoundTrips(connection)
            guarded = Statement(f"SELECT {connection.marker.expression}")
            marked = Statement(
                "INSERT INTO ledger.nodes VALUES (1, 1, decode(repeat('00', 32), 'hex'))"
            )
            await trips.send(guarded)
            await connection.execute(reset.encode())
            with pytest.raises(LedgerUnavailableError, match=WORD):
                await trips.send(guarded, marked)

    run(through_it())
    assert database.fetch("SELECT count(*) FROM ledger.nodes") == [(0,)]


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_statements_name_follows_from_its_sql(one: str, other: str) -> None:
    """The same SQL has the same name in every process, and no other SQL has it."""
    assert (name_of(one) == name_of(other)) == (one == other)
    assert len(name_of(one)) < 64  # what PostgreSQL and poolers keep of a name


def test_a_statement_of_another_session_is_never_taken(database: Database) -> None:
    """Whatever is prepared in a session under names that count, what runs is what was meant."""

    async def through_it() -> None:
        async with await connect(database.service_url) as connection:
            for number in range(50):
                for name in (f"ledger_{number}", f"_pg3_{number}"):
                    await connection.execute(f"PREPARE {name} AS SELECT 'another''s'".encode())
            trips = RoundTrips(connection)
            for number in range(20):
                answer = await trips.send(Statement(f"SELECT {number}"))
                assert answer.rows == [[(number,)]]
                rows = await (await connection.execute("SELECT %s::int", (number,))).fetchall()
                assert rows == [(number,)]

    run(through_it())


def test_psycopgs_own_statements_are_named_by_their_sql(database: Database) -> None:
    """Prepared because asked to, or because used often; again after a failure, without a clash."""

    async def through_it() -> None:
        async with await connect(database.service_url) as connection:
            for _ in range(8):
                await connection.execute("SELECT 7 + %s::int", (1,))
            with pytest.raises(psycopg.errors.DivisionByZero):
                await connection.execute("SELECT 8 / %s::int", (0,), prepare=True)
            for _ in range(2):
                await connection.execute("SELECT 8 / %s::int", (1,), prepare=True)
            cursor = await connection.execute("SELECT name, statement FROM pg_prepared_statements")
            prepared = await cursor.fetchall()
            assert len(prepared) == 3
            for name, statement in prepared:
                assert name.startswith(name_of(statement).decode())

    run(through_it())


def test_what_was_prepared_before_a_failure_is_used_again(database: Database) -> None:
    """A failed round trip forgets only what it did not prepare: nothing is prepared twice."""

    async def through_it() -> None:
        async with await connect(database.service_url) as connection:
            trips = RoundTrips(connection)
            fine, later, wrong = (
                Statement("SELECT 1"),
                Statement("SELECT 2"),
                Statement("SELECT 1/0"),
            )
            for _ in range(2):
                with pytest.raises(psycopg.errors.DivisionByZero):
                    await trips.send(fine, wrong, later)
                assert (await trips.send(fine, later)).rows == [[(1,)], [(2,)]]

    run(through_it())

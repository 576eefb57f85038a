"""Bad days: whatever dies, freezes or lies, nothing acknowledged is lost and nothing is guessed."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from secrets_broker.ledger.durable import check_commit
from secrets_broker.ledger.errors import (
    InvalidCommandError,
    LedgerError,
    LedgerMismatchError,
    LedgerUnavailableError,
    OutcomeUnknownError,
    QueueFullError,
)
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Fold, Outcome, Snapshot
from secrets_broker.ledger.keks import check_keys
from secrets_broker.ledger.keyring import Keyring
from secrets_broker.ledger.round_trip import Statement
from secrets_broker.ledger.seen import Seen
from secrets_broker.ledger.store import Store
from secrets_broker.ledger.writer import MAX_WAITING
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.tools.postgres import Cluster
from tests.conftest import KMS_KEY, TEMPLATE, Database, fresh_database, migrated_cluster
from tests.ledger.helpers import (
    CONTEXT,
    lookup,
    password_of,
    rebuilt,
    record,
    run,
    send,
    upsert,
    writing,
)

REPOSITORY = Path(__file__).parents[2]
_OURS = "FROM pg_stat_activity WHERE application_name = 'secrets-broker' AND datname = %s"
TERMINATE = f"SELECT pg_terminate_backend(pid) {_OURS}"
CANCEL = f"SELECT pg_cancel_backend(pid) {_OURS}"


@pytest.fixture(scope="module")
def own_cluster(bin_dir: Path | None) -> Iterator[Cluster]:
    """A PostgreSQL that these tests may stop and kill."""
    with migrated_cluster(bin_dir) as running:
        yield running


@pytest.fixture
def own_database(own_cluster: Cluster) -> Iterator[Database]:
    """A fresh database in it."""
    with fresh_database(own_cluster, TEMPLATE) as made:
        yield made


def count(database: Database) -> int:
    """How many events are recorded; positions have no gap."""
    ((number, last),) = database.fetch("SELECT count(*), max(position) FROM ledger.events")
    assert number == (last + 1 if number else 0)
    return int(number)


def terminate(database: Database) -> None:
    """Have the server end our connections, and wait until they are gone."""
    database.execute(TERMINATE, database.name)
    while database.fetch(f"SELECT pid {_OURS}", database.name):
        time.sleep(0.01)


async def until_it_waits(database: Database, event: str) -> None:
    """Wait until one of our sessions waits for that in the server."""
    query = f"SELECT pid {_OURS} AND wait_event = %s"
    give_up = time.monotonic() + 10
    while not await asyncio.to_thread(database.fetch, query, database.name, event):
        assert time.monotonic() < give_up, f"nobody waits for {event}"
        await asyncio.sleep(0.01)


def at_commit(database: Database, action: str) -> None:
    """Have the server do something in the COMMIT of a batch with events."""
    database.execute(
        "CREATE FUNCTION public.act() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {action}; RETURN NULL; END $$"
    )
    database.execute(
        "CREATE CONSTRAINT TRIGGER act AFTER INSERT ON ledger.events"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.act()"
    )


def as_usual(database: Database) -> None:
    """Take that back."""
    database.execute("DROP TRIGGER act ON ledger.events")


def cut_to(database: Database, size: int) -> None:
    """Make the ledger what a restore of an older backup would: shorter."""
    with database.owner() as connection, connection.transaction():
        for table, trigger in (("events", "append_only"), ("bodies", "destroyed_with_event")):
            connection.execute(f"ALTER TABLE ledger.{table} DISABLE TRIGGER {trigger}")
            connection.execute(f"DELETE FROM ledger.{table} WHERE position >= %s", (size,))  # noqa: S608
            connection.execute(f"ALTER TABLE ledger.{table} ENABLE ALWAYS TRIGGER {trigger}")


def test_a_stopped_database(own_cluster: Cluster, own_database: Database, keyring: Keyring) -> None:
    """While it is down each command is refused in bounded time; then the same writer goes on."""

    async def through_it() -> None:
        async with writing(own_database.service_url, keyring) as writer:
            await writer.submit(upsert("a", "kept"), CONTEXT)
            own_cluster.stop()
            began = time.monotonic()
            for _ in range(3):
                with pytest.raises(LedgerUnavailableError):
                    await writer.submit(lookup("a"), CONTEXT)
                with pytest.raises(LedgerUnavailableError):
                    await writer.probe()
            assert time.monotonic() - began < 10
            own_cluster.start()
            assert password_of(await writer.submit(lookup("a"), CONTEXT)) == "kept"

    run(through_it())
    assert count(own_database) == 2


LOAD = """
import asyncio, sys
from secrets_broker.ledger.keyring import Keyring
from tests.ledger.helpers import CONTEXT, upsert, writing

async def main(url, kms_key):
    async with writing(url, Keyring.from_kms_keys(kms_key)) as writer:
        async def caller(host):
            while True:
                outcome = await writer.submit(upsert(host), CONTEXT)
                print(outcome.position, host, outcome.version, flush=True)
        await asyncio.gather(*(caller(f"host{n}") for n in range(8)))

asyncio.run(main(*sys.argv[1:]))
"""


def check_acknowledged(database: Database, keyring: Keyring, lines: list[str]) -> None:
    """Every line of an acknowledged upsert is an event, and the projection follows from them."""
    recorded = {
        f"{position} {host} {version}"
        for position, host, version in database.fetch(
            "SELECT position, host, version FROM ledger.events WHERE ok"
        )
    }
    assert len(lines) > 100
    assert set(lines) <= recorded
    assert count(database) == len(recorded)
    assert rebuilt(database, keyring, check_only=True).differences == ()
    (outcome,) = record(database, keyring, lookup("host1"))
    assert outcome.error is None


def test_kill_9_of_postgresql_under_load(
    own_cluster: Cluster, own_database: Database, keyring: Keyring
) -> None:
    """After a crash of PostgreSQL every acknowledged event is there, with no gap."""
    lines: list[str] = []

    async def load() -> None:
        async with writing(own_database.service_url, keyring) as writer:

            async def caller(host: str) -> None:
                try:
                    while True:
                        outcome = await writer.submit(upsert(host), CONTEXT)
                        lines.append(f"{outcome.position} {host} {outcome.version}")
                        if len(lines) == 400:
                            assert own_cluster.pid is not None
                            os.kill(own_cluster.pid, signal.SIGKILL)
                except LedgerUnavailableError:
                    return

            await asyncio.gather(*(caller(f"host{n}") for n in range(8)))
            own_cluster.kill()  # reaps what was killed above
            own_cluster.start()
            # The same writer goes on.
            await writer.submit(upsert("host1"), CONTEXT)

    run(load())
    check_acknowledged(own_database, keyring, lines)


def test_kill_9_of_a_writer_under_load(database: Database, keyring: Keyring) -> None:
    """After a crash of a writing process every acknowledged event is there, with no gap."""
    with subprocess.Popen(
        [sys.executable, "-c", LOAD, database.service_url, KMS_KEY],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(300)]
        process.kill()
        rest = process.stdout.read().splitlines(keepends=True)
        lines += [line.strip() for line in rest if line.endswith("\n")]
    check_acknowledged(database, keyring, lines)


def test_a_connection_cut_between_batches(database: Database, keyring: Keyring) -> None:
    """At most one command is refused, nothing is recorded of it, and the next one works."""

    async def through_it() -> int:
        async with writing(database.service_url, keyring) as writer:
            await writer.submit(upsert("a", "kept"), CONTEXT)
            terminate(database)
            refused = 0
            try:
                await writer.submit(lookup("a"), CONTEXT)
            except LedgerUnavailableError:
                refused = 1
            assert password_of(await writer.submit(lookup("a"), CONTEXT)) == "kept"
            return refused

    assert count(database) == 0
    assert run(through_it()) + count(database) == 3


def test_died_before_the_commit(database: Database, keyring: Keyring) -> None:
    """A connection cut before the commit: the outcome is unknown, and nothing is recorded."""
    at_commit(database, "PERFORM pg_sleep(5)")

    async def through_it() -> None:
        async with writing(database.service_url, keyring) as writer:
            task = asyncio.create_task(writer.submit(upsert("a", "lost"), CONTEXT))
            await until_it_waits(database, "PgSleep")
            terminate(database)
            with pytest.raises(OutcomeUnknownError):
                await task
            as_usual(database)
            assert (await writer.submit(lookup("a"), CONTEXT)).error == "not_found"

    run(through_it())
    assert count(database) == 1


@pytest.mark.parametrize("blow", [TERMINATE, CANCEL])
def test_died_after_the_commit(
    own_cluster: Cluster, own_database: Database, keyring: Keyring, blow: str
) -> None:
    """Committed here, but a standby did not confirm: the outcome is unknown, the event is kept.

    Ended, the connection is lost after the commit; cancelled, COMMIT comes with a warning.
    """

    def standby(name: str) -> None:
        with psycopg.connect(own_cluster.superuser_url(), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
            connection.execute("SELECT pg_reload_conf()")

    async def through_it() -> None:
        async with writing(own_database.service_url, keyring) as writer:
            await writer.submit(lookup("a"), CONTEXT)
            standby("nobody")
            await asyncio.sleep(0.3)  # no query tells when the server has taken it in
            task = asyncio.create_task(writer.submit(upsert("a", "kept"), CONTEXT))
            await until_it_waits(own_database, "SyncRep")
            own_database.execute(blow, own_database.name)
            with pytest.raises(OutcomeUnknownError):
                await task
            standby("")
            assert password_of(await writer.submit(lookup("a"), CONTEXT)) == "kept"

    try:
        run(through_it())
    finally:
        standby("")
    assert count(own_database) == 3


def test_a_commit_with_a_warning_is_not_certain(database: Database, keyring: Keyring) -> None:
    """COMMIT with any warning: no outcome is released, and the writer goes on."""
    at_commit(database, "RAISE WARNING 'not certain'")

    async def through_it() -> None:
        async with writing(database.service_url, keyring) as writer:
            with pytest.raises(OutcomeUnknownError):
                await writer.submit(upsert("a", "kept"), CONTEXT)
            as_usual(database)
            assert password_of(await writer.submit(lookup("a"), CONTEXT)) == "kept"

    run(through_it())


def test_a_commit_that_fails_records_nothing(database: Database, keyring: Keyring) -> None:
    """COMMIT with an error: the whole batch is refused, with nothing recorded."""
    at_commit(database, "RAISE EXCEPTION 'no'")

    async def through_it() -> None:
        async with writing(database.service_url, keyring) as writer:
            results = await asyncio.gather(
                *(writer.submit(upsert(host), CONTEXT) for host in "abc"), return_exceptions=True
            )
            assert [type(result) for result in results] == [LedgerUnavailableError] * 3
            assert count(database) == 0
            as_usual(database)
            assert (await writer.submit(lookup("a"), CONTEXT)).error == "not_found"

    run(through_it())


def test_a_bad_command_is_refused_alone(database: Database, keyring: Keyring) -> None:
    """A command that breaks a CHECK gets the error; the others of its batch are recorded."""
    bad = Context(actor="x" * 101, authn="internal_key")

    async def batch() -> list[Outcome | BaseException]:
        async with writing(database.service_url, keyring) as writer:
            return await asyncio.gather(
                *(writer.submit(upsert(host), bad if host == "c" else CONTEXT) for host in "abcde"),
                return_exceptions=True,
            )

    results = run(batch())
    refused = [host for host, r in zip("abcde", results, strict=True) if isinstance(r, Exception)]
    assert refused == ["c"]
    assert isinstance(results[2], InvalidCommandError)
    assert "xxx" not in str(results[2])
    assert database.fetch("SELECT string_agg(host, '' ORDER BY host) FROM ledger.events") == [
        ("abde",)
    ]


def test_a_foreign_holder_of_the_lock(database: Database, keyring: Keyring) -> None:
    """While somebody keeps the lock, commands are refused in bounded time; then they work."""

    async def through_it() -> None:
        async with writing(database.service_url, keyring) as writer:
            with database.owner() as connection, connection.transaction():
                connection.execute("SELECT 1 FROM ledger.lock FOR UPDATE")
                began = time.monotonic()
                with pytest.raises(LedgerUnavailableError):
                    await writer.submit(lookup("a"), CONTEXT)
                assert time.monotonic() - began < 10
            assert (await writer.submit(lookup("a"), CONTEXT)).position == 0

    run(through_it())


def test_a_frozen_writer_is_cut_off(database: Database, keyring: Keyring) -> None:
    """A writer that freezes with the lock is ended by the server before the others give up."""

    async def through_it() -> None:
        frozen = await Store.connect(database.service_url, HostCredentials())
        try:
            await check_keys(frozen.connection, keyring)
            snapshot = await frozen.read([], Seen())
            async with writing(database.service_url, keyring) as writer:
                assert (await writer.submit(upsert("a", "kept"), CONTEXT)).position == 0
            fold = Fold(snapshot, keyring)
            fold.take(upsert("a", "late"), CONTEXT)
            with pytest.raises((psycopg.Error, LedgerError)):
                await frozen.append(fold.append)
        finally:
            await frozen.close()

    run(through_it())
    assert count(database) == 1
    assert password_of(record(database, keyring, lookup("a"))[0]) == "kept"


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("SET synchronous_commit = off", "synchronous_commit is off"),
        ("CONNECTION LIMIT 0", "does not answer"),
        ("SET default_transaction_read_only = on", "refused to write"),
    ],
)
def test_a_database_that_cannot_keep_it(
    database: Database, keyring: Keyring, setting: str, word: str
) -> None:
    """Not durable, out of connections or read-only: refused with a clear word, until it is not."""

    async def through_it() -> None:
        async with writing(database.service_url, keyring) as writer:
            await writer.submit(upsert("a", "kept"), CONTEXT)
            database.execute(f"ALTER DATABASE {database.name} {setting}")
            terminate(database)
            for _ in range(2):
                with pytest.raises(LedgerUnavailableError):
                    await writer.submit(lookup("a"), CONTEXT)
            with pytest.raises(LedgerUnavailableError, match=word):
                await writer.probe()
            with database.owner() as connection:
                connection.execute("SET default_transaction_read_only = off")
                connection.execute(f"ALTER DATABASE {database.name} RESET ALL")
                connection.execute(f"ALTER DATABASE {database.name} CONNECTION LIMIT -1")
            assert password_of(await writer.submit(lookup("a"), CONTEXT)) == "kept"

    run(through_it())
    assert count(database) == 2


def test_a_cancelled_request(database: Database, keyring: Keyring) -> None:
    """A caller who goes away while it commits: the event is recorded, the writer goes on."""
    at_commit(database, "PERFORM pg_sleep(1)")

    async def through_it() -> None:
        async with writing(database.service_url, keyring) as writer:
            tasks = [asyncio.create_task(writer.submit(upsert(h), CONTEXT)) for h in "ab"]
            await until_it_waits(database, "PgSleep")
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            assert (await tasks[1]).position == 1
            as_usual(database)
            assert (await writer.submit(lookup("a"), CONTEXT)).error is None

    run(through_it())
    assert count(database) == 3


def test_a_full_queue(database: Database, keyring: Keyring) -> None:
    """Past its bound a command is refused at once; all that wait are recorded."""

    async def flood() -> list[Outcome | BaseException]:
        async with writing(database.service_url, keyring) as writer:
            return await asyncio.gather(
                *(writer.submit(lookup("a"), CONTEXT) for _ in range(MAX_WAITING + 50)),
                return_exceptions=True,
            )

    results = run(flood())
    assert all(isinstance(result, Outcome) for result in results[:MAX_WAITING])
    assert all(isinstance(result, QueueFullError) for result in results[MAX_WAITING:])
    assert count(database) == MAX_WAITING


@pytest.mark.parametrize("reconnect", [False, True])
@pytest.mark.parametrize(("left", "then"), [(3, 0), (0, 0), (3, 5), (0, 20), (3, 2_200)])
def test_another_ledger_than_was_seen(
    database: Database, keyring: Keyring, reconnect: bool, left: int, then: int
) -> None:
    """A ledger cut short, or cut and grown differently, stops the process for good."""

    async def through_it() -> None:
        async with writing(database.service_url, keyring) as writer:
            await send(writer, *(upsert(f"host{n}") for n in range(6)))
            cut_to(database, left)
            async with writing(database.service_url, keyring) as other:
                await send(other, *(lookup("z") for _ in range(then)))
            if reconnect:
                terminate(database)
                with pytest.raises(LedgerUnavailableError):
                    await writer.submit(lookup("a"), CONTEXT)
            for _ in range(2):
                with pytest.raises(LedgerMismatchError):
                    await writer.submit(lookup("a"), CONTEXT)
            with pytest.raises(LedgerMismatchError):
                await writer.probe()

    run(through_it())
    assert count(database) == left + then


def test_far_behind(database: Database, keyring: Keyring) -> None:
    """A process that is thousands of events behind catches up, and appends where it must."""

    async def through_it() -> None:
        async with (
            writing(database.service_url, keyring) as behind,
            writing(database.service_url, keyring) as ahead,
        ):
            await behind.submit(lookup("a"), CONTEXT)
            await send(ahead, *(lookup("a") for _ in range(2_300)))
            await ahead.submit(upsert("a", "new"), CONTEXT)
            outcome = await behind.submit(lookup("a"), CONTEXT)
            assert (password_of(outcome), outcome.position) == ("new", 2_302)

    run(through_it())
    assert count(database) == 2_303


def test_time_does_not_run_backwards(database: Database, keyring: Keyring) -> None:
    """After a clock that ran ahead, events have the time of the last one until it is reached."""
    ahead = (datetime.now(UTC) + timedelta(hours=3)).replace(microsecond=7)

    async def write_ahead() -> None:
        store = await Store.connect(database.service_url, HostCredentials())
        try:
            await check_keys(store.connection, keyring)
            fold = Fold(replace(await store.read([], Seen()), clock=ahead), keyring)
            fold.take(upsert("a"), CONTEXT)
            await store.append(fold.append)
        finally:
            await store.close()

    run(write_ahead())
    record(database, keyring, lookup("a"), lookup("a"))
    assert database.fetch("SELECT DISTINCT at FROM ledger.events") == [(ahead,)]


@pytest.mark.parametrize("seconds", [-60, 0, 60])
def test_an_event_has_the_later_of_two_times(keyring: Keyring, seconds: int) -> None:
    """`at` is the clock's time, or the last event's where that is later."""
    clock = datetime(2026, 1, 1, tzinfo=UTC)
    last_at = clock + timedelta(seconds=seconds)
    fold = Fold(Snapshot(clock, last_at, Seen(), {keyring.first.id: "active"}, {}, {}, {}), keyring)
    fold.take(lookup("a"), CONTEXT)
    at = max(clock, last_at).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    assert f'"at":"{at}"'.encode() in fold.append.entries[0]


@pytest.mark.parametrize("sign", ["+", "-"])
def test_clocks_that_differ(database: Database, keyring: Keyring, sign: str) -> None:
    """Where the database's clock is six minutes off, nothing is written, and the reason is said."""
    database.execute("CREATE SCHEMA shadow")
    database.execute("GRANT USAGE ON SCHEMA shadow TO PUBLIC")
    database.execute(
        "CREATE FUNCTION shadow.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
        f" AS $$ SELECT pg_catalog.clock_timestamp() {sign} interval '6 minutes' $$"
    )

    async def through_it() -> None:
        async with writing(database.service_url, keyring) as writer:
            database.execute(f"ALTER DATABASE {database.name} SET search_path = shadow, pg_catalog")
            terminate(database)
            with pytest.raises(LedgerUnavailableError):
                await writer.submit(lookup("a"), CONTEXT)
            with pytest.raises(LedgerUnavailableError, match="clock"):
                await writer.submit(lookup("a"), CONTEXT)
            assert count(database) == 0

    run(through_it())


@pytest.fixture
def small_disk(own_cluster: Cluster) -> Iterator[Path]:
    """A file system of 2 MiB that PostgreSQL may write to; needs the right to mount one."""
    folder = Path(tempfile.mkdtemp(prefix="secrets-broker-test-"))
    owner = own_cluster.layout.pgdata.stat()
    options = f"size=2m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip("only who may mount a file system can fill one")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def test_a_full_disk(
    small_disk: Path, own_cluster: Cluster, own_database: Database, keyring: Keyring
) -> None:
    """Where nothing can be written nothing is served; with room again the same writer goes on."""
    own_database.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
    own_database.execute("ALTER TABLE ledger.bodies SET TABLESPACE small")

    async def fill() -> int:
        acknowledged = 0
        async with writing(own_database.service_url, keyring) as writer:
            with pytest.raises(LedgerUnavailableError):
                while True:
                    await writer.submit(upsert("host", "x" * 8_000), CONTEXT)
                    acknowledged += 1
            grow = ["mount", "-o", "remount,size=64m", str(small_disk)]
            await asyncio.to_thread(subprocess.run, grow, check=True)
            outcome = await writer.submit(lookup("host"), CONTEXT)
            assert (outcome.version, outcome.error) == (acknowledged, None)
            await writer.submit(upsert("host"), CONTEXT)
        return acknowledged

    try:
        acknowledged = run(fill())
        # Every upsert that was acknowledged, the lookup, and the one after.
        assert own_database.fetch("SELECT count(*) FROM ledger.events") == [(acknowledged + 2,)]
        assert rebuilt(own_database, keyring, check_only=True).differences == ()
    finally:
        own_database.execute("ALTER TABLE ledger.bodies SET TABLESPACE pg_default")
        own_database.execute("DROP TABLESPACE small")


def test_a_commit_that_rolls_back_is_not_taken_for_one(
    database: Database, keyring: Keyring
) -> None:
    """COMMIT after a failed statement answers ROLLBACK without an error: that is no commit."""

    async def through_it() -> None:
        store = await Store.connect(database.service_url, HostCredentials())
        try:
            snapshot = await store.read([], Seen())
            with pytest.raises(psycopg.errors.DivisionByZero):
                await store.connection.execute("SELECT 1 / 0")
            answer = await store._round_trips.send(Statement("COMMIT"))
            assert answer.tag == "ROLLBACK"
            with pytest.raises(OutcomeUnknownError):
                check_commit(answer.tag, [])
            assert snapshot.seen.size == 0
        finally:
            await store.close()

    run(through_it())


def test_what_nobody_foresaw_fails_its_batch_alone(database: Database, keyring: Keyring) -> None:
    """A command that breaks the fold itself is answered, and the writer goes on."""

    async def through_it() -> None:
        async with writing(database.service_url, keyring) as writer:
            broken = Context(actor=object(), authn="none")  # type: ignore[arg-type]  # on purpose
            with pytest.raises(LedgerUnavailableError):
                await asyncio.wait_for(writer.submit(upsert("host"), broken), 10)
            stored, found = await send(writer, upsert("host"), lookup("host"))
            assert (stored.position, found.position) == (0, 1)

    run(through_it())

"""Bad days: whatever dies, freezes or lies, nothing acknowledged is lost and nothing is guessed."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from msgspec.structs import replace as changed

from secrets_broker.ledger.commands import Record
from secrets_broker.ledger.database.commit_check import check_commit
from secrets_broker.ledger.database.round_trip import Statement
from secrets_broker.ledger.encryption.keks import check_keys
from secrets_broker.ledger.encryption.keyring import Keyring
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
from secrets_broker.ledger.store import Store
from secrets_broker.ledger.tree_state import TreeState
from secrets_broker.ledger.writer import MAX_BATCH, Writer
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.tools.postgres import Cluster
from tests.conftest import KMS_KEY, TEMPLATE, Database, fresh_database, migrated_cluster
from tests.ledger.helpers import (
    BEGUN,
    CONTEXT,
    lookup,
    password_of,
    rebuilt,
    record,
    record_at,
    run,
    send,
    upsert,
    writing,
)
from tests.ledger.interruptions import (
    _OURS,
    TERMINATE,
    as_usual,
    at_commit,
    count,
    terminate,
    until_gone,
    until_it_waits,
)

REPOSITORY = Path(__file__).parents[2]
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


def cut_to(database: Database, size: int) -> None:
    """Make the ledger what a restore of an older backup would: shorter."""
    with database.owner() as connection, connection.transaction():
        for table, column, trigger in (
            ("events", "position", "append_only"),
            ("bodies", "position", "destroyed_with_event"),
            ("event_keys", "from_position", "never_deleted"),
        ):
            connection.execute(f"ALTER TABLE ledger.{table} DISABLE TRIGGER {trigger}")
            connection.execute(f"DELETE FROM ledger.{table} WHERE {column} >= %s", (size,))  # noqa: S608
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
from secrets_broker.ledger.encryption.keyring import Keyring
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
            "SELECT position, host, version FROM ledger.events WHERE ok AND host IS NOT NULL"
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


def refuse_connections(database: Database, *, refuse: bool) -> None:
    """Have the server refuse all new sessions of this database; its log has a line for each."""
    with psycopg.connect(database.owner_url, dbname="postgres", autocommit=True) as connection:
        allow = "false" if refuse else "true"
        connection.execute(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS {allow}")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (database.name,),
        )


def refused_attempts(cluster: Cluster, database: Database) -> int:
    """How many new sessions of this database the server has refused, by its log."""
    words = f'database "{database.name}" is not currently accepting connections'
    return cluster.layout.log.read_text().count(words)


def cut_idle_sessions(_cluster: Cluster, database: Database) -> None:
    """Have the server end sessions that are idle."""
    database.execute(f"ALTER DATABASE {database.name} SET idle_session_timeout = '50ms'")
    terminate(database)


def restart(cluster: Cluster, _database: Database) -> None:
    """Stop the server and start it again."""
    cluster.stop()
    cluster.start()


def crash(cluster: Cluster, _database: Database) -> None:
    """Kill the server, let it recover."""
    cluster.kill()
    cluster.start()


@pytest.mark.parametrize(
    "cut", [lambda _, database: terminate(database), cut_idle_sessions, restart, crash]
)
def test_a_connection_cut_between_batches(
    own_cluster: Cluster,
    own_database: Database,
    keyring: Keyring,
    cut: Callable[[Cluster, Database], None],
) -> None:
    """Nobody notices: nothing can have been written, so it is sent again on another connection."""

    async def through_it() -> None:
        async with writing(own_database.service_url, keyring) as writer:
            await writer.submit(upsert("a", "kept"), CONTEXT)
            for _ in range(3):
                cut(own_cluster, own_database)
                until_gone(own_database)
                assert password_of(await writer.submit(lookup("a"), CONTEXT)) == "kept"
                cut(own_cluster, own_database)
                until_gone(own_database)
                await writer.probe()

    run(through_it())
    assert count(own_database) == 4


def test_while_the_database_is_away_attempts_are_few(
    own_cluster: Cluster, own_database: Database, keyring: Keyring
) -> None:
    """However many ask, and however often: a few at first, then about one a second.

    Whoever waits gets the answer of one attempt, though it is more than a batch; and once the
    server takes connections again, nobody is refused.
    """

    async def ask(writer: Writer, until: asyncio.Event) -> int:
        refused = 0
        while not until.is_set():
            with suppress(LedgerUnavailableError):
                await writer.submit(lookup("a"), CONTEXT)
                return refused
            refused += 1
        return refused

    async def through_it() -> None:
        async with writing(own_database.service_url, keyring) as writer:
            await writer.submit(lookup("a"), CONTEXT)
            refuse_connections(own_database, refuse=True)
            began, over = time.monotonic(), asyncio.Event()
            clients = [asyncio.create_task(ask(writer, over)) for _ in range(8)]
            await asyncio.sleep(3)
            attempts = refused_attempts(own_cluster, own_database)
            # The shortest pauses are 25, 50, 100, 200 and 400 ms, then half a second.
            assert 2 <= attempts <= 7 + (time.monotonic() - began) / 0.5
            over.set()
            assert all(refused >= 2 for refused in await asyncio.gather(*clients))
            attempts = refused_attempts(own_cluster, own_database)
            many = [writer.submit(lookup("a"), CONTEXT) for _ in range(3 * MAX_BATCH)]
            results = await asyncio.gather(*many, return_exceptions=True)
            assert {type(each) for each in results} == {LedgerUnavailableError}
            assert refused_attempts(own_cluster, own_database) == attempts + 1
            await through_recovery(writer)

    async def through_recovery(writer: Writer) -> None:
        later = [asyncio.create_task(writer.submit(lookup("a"), CONTEXT)) for _ in range(8)]
        await asyncio.sleep(0)  # they wait for the next attempt
        refuse_connections(own_database, refuse=False)
        assert all(outcome.error == "not_found" for outcome in await asyncio.gather(*later))

    run(through_it())
    assert count(own_database) == 9


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
            assert (await writer.submit(lookup("a"), CONTEXT)).position == BEGUN

    run(through_it())


def test_a_frozen_writer_is_cut_off(database: Database, keyring: Keyring) -> None:
    """A writer that freezes with the lock is ended by the server before the others give up."""

    async def through_it() -> None:
        frozen = await Store.connect(database.service_url, HostCredentials(), keyring)
        try:
            await check_keys(frozen.connection, keyring)
            snapshot = await frozen.read([], TreeState())
            async with writing(database.service_url, keyring) as writer:
                assert (await writer.submit(upsert("a", "kept"), CONTEXT)).position == BEGUN
            fold = Fold(snapshot, keyring)
            fold.take(upsert("a", "late"), CONTEXT)
            with pytest.raises((psycopg.Error, LedgerError)):
                await frozen.append(fold)
        finally:
            await frozen.close()

    run(through_it())
    assert count(database) == 1
    assert password_of(record(database, keyring, lookup("a"))[0]) == "kept"


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("SET synchronous_commit = off", "synchronous_commit is off"),
        ("SET synchronous_commit = local", "synchronous_commit is local"),
        ("CONNECTION LIMIT 0", "does not answer"),
    ],
)
def test_a_database_that_cannot_keep_it(
    database: Database, keyring: Keyring, setting: str, word: str
) -> None:
    """Not durable, or out of connections: refused with a clear word, until it is not."""

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
            assert (await tasks[1]).position == BEGUN + 1
            as_usual(database)
            assert (await writer.submit(lookup("a"), CONTEXT)).error is None

    run(through_it())
    assert count(database) == 3


def test_a_full_queue(database: Database, keyring: Keyring) -> None:
    """Past his share a caller is refused at once, and nobody else is; all that wait are recorded.

    Twelve batches of 500 at once, which is more than the whole queue once held: another caller's
    lookups, the service's own events and its probes find room, and so does one of his own.
    """
    another, own = changed(CONTEXT, ip="192.0.2.8"), changed(CONTEXT, authn="none")

    async def flood() -> list[object]:
        async with writing(database.service_url, keyring) as writer:
            batch = [lookup("a")] * 500
            return await asyncio.gather(
                *(writer.submit_all(batch, CONTEXT) for _ in range(12)),
                *(writer.submit(lookup("b"), another) for _ in range(35)),
                writer.submit(lookup("c"), CONTEXT),
                writer.note(Record(type="access.counting", details={"source": None}), own),
                writer.probe(),
                return_exceptions=True,
            )

    results = run(flood())
    taken = [each for each in results[:12] if not isinstance(each, QueueFullError)]
    assert 1 <= len(taken) < 12
    assert taken == results[: len(taken)]
    assert all(isinstance(each, Outcome) for each in results[12:-1])
    assert results[-1] is None
    assert count(database) == 500 * len(taken) + 37
    # The others are not behind all that waits, but in the first batches.
    last = max(each.position for each in results[12:47] if isinstance(each, Outcome))
    assert last < 2 * MAX_BATCH


def test_whoever_waits_for_the_same_probe_costs_one(database: Database, keyring: Keyring) -> None:
    """A thousand that ask at once whether the ledger can be written take its lock once."""

    async def waiting() -> int:
        async with writing(database.service_url, keyring) as writer:
            probes = [asyncio.ensure_future(writer.probe()) for _ in range(1_000)]
            await asyncio.sleep(0)  # each has asked, and the writer had no turn yet
            found = len(writer._queue._own)
            await asyncio.gather(*probes)
            return found

    assert run(waiting()) == 1


@pytest.mark.parametrize("reconnect", [False, True])
@pytest.mark.parametrize(("left", "then"), [(3, 0), (0, 0), (3, 5), (0, 20), (3, 2_200)])
def test_another_ledger_than_was_seen(
    database: Database, keyring: Keyring, reconnect: bool, left: int, then: int
) -> None:
    """A ledger cut short, or cut and grown differently, stops the process for good."""

    async def through_it() -> None:
        async with writing(database.service_url, keyring) as writer:
            await send(writer, *(upsert(f"host{n}") for n in range(6)))
            cut_to(database, BEGUN + left if left else 0)
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
            assert (password_of(outcome), outcome.position) == ("new", BEGUN + 2_302)

    run(through_it())
    assert count(database) == 2_303


def test_time_does_not_run_backwards(database: Database, keyring: Keyring) -> None:
    """After a clock that ran ahead, events have the time of the last one until it is reached."""
    ahead = (datetime.now(UTC) + timedelta(minutes=4)).replace(microsecond=7)
    record_at(database, keyring, ahead, upsert("a"))
    record(database, keyring, lookup("a"), lookup("a"))
    assert database.fetch("SELECT DISTINCT at FROM ledger.events") == [(ahead,)]


@pytest.mark.parametrize("seconds", [-60, 0, 60])
def test_an_event_has_the_later_of_two_times(keyring: Keyring, seconds: int) -> None:
    """`at` is the clock's time, or the last event's where that is later."""
    clock = datetime(2026, 1, 1, tzinfo=UTC)
    last_at = clock + timedelta(seconds=seconds)
    fold = Fold(
        Snapshot(clock, last_at, TreeState(), {keyring.first.id: "active"}, {}, {}, {}), keyring
    )
    fold.take(lookup("a"), CONTEXT)
    at = max(clock, last_at).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    assert f'"at":"{at}"'.encode() in fold.append.entries[-1]


@pytest.mark.parametrize("sign", ["+", "-"])
def test_clocks_that_differ(database: Database, keyring: Keyring, sign: str) -> None:
    """Where the database's clock is six minutes off, nothing is written, and the reason is said."""

    def set_clock() -> None:
        with database.owner() as connection:
            connection.execute("ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO real_clock")
            connection.execute(
                "CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
                f" AS $$ SELECT pg_catalog.real_clock() {sign} interval '6 minutes' $$"
            )

    async def through_it() -> None:
        async with writing(database.service_url, keyring) as writer:
            set_clock()
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
        assert count(own_database) == acknowledged + 2
        assert rebuilt(own_database, keyring, check_only=True).differences == ()
    finally:
        own_database.execute("ALTER TABLE ledger.bodies SET TABLESPACE pg_default")
        own_database.execute("DROP TABLESPACE small")


def test_a_commit_that_rolls_back_is_not_taken_for_one(
    database: Database, keyring: Keyring
) -> None:
    """COMMIT after a failed statement answers ROLLBACK without an error: that is no commit."""

    async def through_it() -> None:
        store = await Store.connect(database.service_url, HostCredentials(), keyring)
        try:
            snapshot = await store.read([], TreeState())
            with pytest.raises(psycopg.errors.DivisionByZero):
                await store.connection.execute("SELECT 1 / 0")
            answer = await store._round_trips.send(Statement("COMMIT"))
            assert answer.tag == "ROLLBACK"
            with pytest.raises(OutcomeUnknownError):
                check_commit(answer.tag, [])
            assert snapshot.tree_state.size == 0
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
            assert (stored.position, found.position) == (BEGUN, BEGUN + 1)

    run(through_it())

"""Two runs at once, and runs that are killed."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from secrets_broker.migrations.connection import LOCK_KEY
from secrets_broker.migrations.errors import MigrationRunningError, StatementError
from secrets_broker.migrations.runner import apply, pending, rollback
from tests.migrations.conftest import Databases, execute, roles
from tests.migrations.migration_files import NAMES, quiet
from tests.waiting import until

WAITERS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
SAME_SCHEMA = "CREATE SCHEMA ledger"


@contextmanager
def in_the_way(url: str, statement: str) -> Iterator[None]:
    """Another session holds the statement's locks, and then takes the statement back."""
    with psycopg.connect(url) as other:
        other.execute(statement.encode())
        yield
        other.rollback()


def wait_for_waiter(url: str) -> object:
    """The process id of the session that waits for a lock."""
    return until(lambda: execute(url, WAITERS), "nobody waits")[0][0]


def test_two_runs_at_once_apply_each_file_once(empty_database: str) -> None:
    """One waits for the other, and then finds nothing left to do."""
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(apply, empty_database, quiet) for _ in range(2)]
    assert sorted(run.result() for run in runs) == [[], NAMES]


def test_who_waits_says_so(empty_database: str) -> None:
    """A run that has to wait says for what and how long, and then does its work."""
    said: list[str] = []
    with psycopg.connect(empty_database, autocommit=True) as other, ThreadPoolExecutor(1) as pool:
        other.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
        run = pool.submit(apply, empty_database, said.append)
        wait_for_waiter(empty_database)
        other.execute("SELECT pg_advisory_unlock(%s)", (LOCK_KEY,))
        assert run.result() == NAMES
    assert said[0] == "another migration is at work; waiting for it, 60 s at most"


def test_the_wait_is_bounded(empty_database: str) -> None:
    """After its time, a run gives up in words, having changed nothing."""
    with psycopg.connect(empty_database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
        for run in (apply, rollback):
            with pytest.raises(MigrationRunningError, match=r"still at work after 0\.1 s"):
                run(empty_database, quiet, wait_seconds=0.1)
    assert pending(empty_database) == NAMES


def test_a_file_waits_no_longer_for_a_table_either(empty_database: str) -> None:
    """A lock on what a file changes ends in words too, and another run goes on."""
    message = r"0002\.roles\.sql: something else holds a lock"
    with (
        in_the_way(empty_database, SAME_SCHEMA),
        pytest.raises(MigrationRunningError, match=message),
    ):
        apply(empty_database, quiet, wait_seconds=0.1)
    assert apply(empty_database, quiet) == NAMES[1:]


def test_a_terminated_session_leaves_all_or_nothing(empty_database: str, no_roles: None) -> None:
    """Killed in the middle of a file: nothing of that file is there, and another run goes on."""
    with in_the_way(empty_database, SAME_SCHEMA), ThreadPoolExecutor(1) as pool:
        run = pool.submit(apply, empty_database, quiet)
        execute(empty_database, f"SELECT pg_terminate_backend({wait_for_waiter(empty_database)})")
        with pytest.raises(StatementError, match=r"0002\.roles\.sql: the connection broke"):
            run.result()
    assert roles(empty_database) == set()
    assert pending(empty_database) == NAMES[1:]
    assert apply(empty_database, quiet) == NAMES[1:]


def test_a_killed_process_leaves_all_or_nothing(empty_database: str) -> None:
    """After kill -9 the lock goes with the connection, and another run goes on."""
    code = f"from secrets_broker.migrations.runner import apply; apply({empty_database!r}, print)"
    with (
        in_the_way(empty_database, SAME_SCHEMA),
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as process,
    ):
        wait_for_waiter(empty_database)
        process.send_signal(signal.SIGKILL)
    assert apply(empty_database, quiet) == NAMES[1:]


def test_a_stale_lock_row_is_broken(empty_database: str) -> None:
    """The row that a killed yoyo leaves does not stop anybody who holds the real lock."""
    apply(empty_database, quiet)
    execute(
        empty_database,
        "INSERT INTO secrets_broker_migrations.yoyo_lock (locked, pid) VALUES (1, 4711)",
    )
    assert rollback(empty_database, quiet, wait_seconds=1) == NAMES[::-1]


def test_a_rollback_that_was_stopped_goes_on(empty_database: str) -> None:
    """What was taken back stays so; the rest goes in the next run."""
    apply(empty_database, quiet)
    reader = in_the_way(empty_database, "SELECT FROM ledger.lock")
    with reader, pytest.raises(MigrationRunningError, match=r"0003\.events\.rollback\.sql"):
        rollback(empty_database, quiet, wait_seconds=0.1)
    assert pending(empty_database) == NAMES[3:]
    assert rollback(empty_database, quiet) == NAMES[2::-1]


def test_databases_of_one_cluster_are_independent(databases: Databases) -> None:
    """Roles are the cluster's: made at the same time, and dropped only by the last to leave."""
    first, second = databases.make(), databases.make()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda url: apply(url, quiet), (first, second))) == [NAMES, NAMES]
    said: list[str] = []
    rollback(first, said.append)
    assert "role secrets_broker_service is used elsewhere and stays" in said
    assert len(roles(second)) == 2
    assert pending(second) == []
    rollback(second, quiet)
    assert roles(second) == set()

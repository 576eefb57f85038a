"""Whatever dies, and however: the next start serves what was committed."""

import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from secrets_broker.tools.postgres import Cluster, FolderInUseError, NotRunningError, StartError
from secrets_broker.tools.postgres.process import is_postmaster, launch, wait_until
from secrets_broker.tools.postgres.server import LARGEST_LOG
from tests.tools.postgres.helpers import (
    account,
    commit_row,
    has_row,
    linux_only,
    query,
    start_neighbour,
    start_python,
)

SUPERVISOR = """
import sys, time
from pathlib import Path
from secrets_broker.tools.postgres import Cluster
cluster = Cluster(Path(sys.argv[1]), bin_dir=Path(sys.argv[2]))
cluster.start()
print(cluster.pid, cluster.superuser_url(), flush=True)
time.sleep(600)
"""


@contextmanager
def _supervisor(data_dir: Path, bin_dir: Path) -> Iterator[subprocess.Popen[str]]:
    process = start_python(SUPERVISOR, str(data_dir), str(bin_dir))
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _crash(cluster: Cluster) -> str:
    """Commit a row and kill the postmaster, which leaves its postmaster.pid."""
    word = commit_row(cluster.superuser_url())
    cluster.kill()
    return word


def _named(cluster: Cluster) -> list[Path]:
    """The two files by which PostgreSQL knows that a postmaster runs."""
    return [
        cluster.data_dir / "postgres" / "postmaster.pid",
        cluster.socket_dir / ".s.PGSQL.5432.lock",
    ]


def _forge_first_line(paths: list[Path], line: str) -> None:
    for path in paths:
        _, *rest = path.read_text().splitlines()
        path.write_text("\n".join([line, *rest, ""]))


def test_stop_and_start_keep_the_rows(cluster: Cluster) -> None:
    """A clean stop ends the postmaster, and the next start finds everything."""
    word = commit_row(cluster.superuser_url())
    pid = cluster.pid
    assert pid is not None
    cluster.stop()
    assert cluster.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    cluster.start()
    assert has_row(cluster, word)


def test_start_twice_is_one_start(cluster: Cluster) -> None:
    """A cluster that runs is left as it is."""
    pid = cluster.pid
    cluster.start()
    assert cluster.pid == pid


def test_without_start_there_is_no_url(place: Path) -> None:
    """A URL that nothing answers at is never handed out."""
    with pytest.raises(NotRunningError):
        Cluster(place / "data").superuser_url()


def test_stop_does_not_wait_for_clients(cluster: Cluster) -> None:
    """Open transactions and running queries are cut off: stop takes less than 4 s."""
    with closing(psycopg.connect(cluster.superuser_url())) as idle:
        idle.execute("SELECT 1")
        began = time.monotonic()
        cluster.stop()
        assert time.monotonic() - began < 4
        assert cluster.pid is None


def test_stop_ends_a_postmaster_that_ignores_it(cluster: Cluster) -> None:
    """A postmaster that handles no signal is gone in time too, and nothing is lost."""
    word = commit_row(cluster.superuser_url())
    assert cluster.pid is not None
    os.kill(cluster.pid, signal.SIGSTOP)
    began = time.monotonic()
    cluster.stop()
    assert time.monotonic() - began < 5  # what dev promises; the signals alone take 3.4
    cluster.start()
    assert has_row(cluster, word)


def test_killed_postmaster_loses_nothing(cluster: Cluster) -> None:
    """After kill -9 of PostgreSQL, the same data folder starts and has the committed rows."""
    word = _crash(cluster)
    cluster.start()
    assert has_row(cluster, word)


def test_killed_postmaster_with_a_backend_that_lingers(cluster: Cluster) -> None:
    """A backend that still holds the shared memory delays the start, it does not fail it."""
    log = cluster.layout.log
    said_before, refused = log.stat().st_size, threading.Event()

    def wake(backend: int) -> None:
        message = b"pre-existing shared memory block"
        if wait_until(lambda: message in log.read_bytes()[said_before:], 20):
            refused.set()
        os.kill(backend, signal.SIGCONT)

    with closing(psycopg.connect(cluster.superuser_url())) as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        waking = threading.Thread(target=wake, args=(backend,))
        waking.start()
        try:
            word = _crash(cluster)
            cluster.start()
        finally:
            waking.join()
    assert refused.is_set()
    assert has_row(cluster, word)


@linux_only
@pytest.mark.parametrize("patient", [True, False])
def test_killed_supervisor_takes_postgresql_along(
    bin_dir: Path, data_dir: Path, patient: bool
) -> None:
    """After kill -9 of the supervisor PostgreSQL ends by itself, and nothing is lost.

    Nor does a start at once mistake the PostgreSQL that is just ending for one that serves.
    """
    with _supervisor(data_dir, bin_dir) as supervisor:
        assert supervisor.stdout is not None
        pid, url = supervisor.stdout.readline().split()
        word = commit_row(url)
        supervisor.kill()
        supervisor.wait()
        if patient:
            pgdata = data_dir / "postgres"
            assert wait_until(lambda: not is_postmaster(int(pid), pgdata), 5)
        with Cluster(data_dir, bin_dir=bin_dir) as cluster:
            assert cluster.pid != int(pid)
            assert has_row(cluster, word)


def test_orphaned_postmaster_is_replaced(cluster: Cluster, bin_dir: Path) -> None:
    """A postmaster that nobody supervises is ended first: two never share a data folder."""
    word = commit_row(cluster.superuser_url())
    pgdata, socket_dir = cluster.layout.pgdata, cluster.socket_dir
    cluster.stop()
    command = [str(bin_dir / "postgres"), "-D", str(pgdata), "-c", "listen_addresses="]
    command += ["-c", f"unix_socket_directories={socket_dir}"]
    orphan = launch(command, account(), subprocess.DEVNULL, signal.SIGINT)
    assert wait_until((socket_dir / ".s.PGSQL.5432").exists, 10)
    cluster.start()
    assert orphan.wait(timeout=5) == 0
    assert has_row(cluster, word)


WHICH = pytest.mark.parametrize("which", [[0], [1], [0, 1]], ids=["pid", "socket", "both"])


def _crashed(cluster: Cluster, which: list[int]) -> tuple[str, list[Path]]:
    named = [_named(cluster)[number] for number in which]
    return _crash(cluster), named


@WHICH
def test_reused_pid_does_not_block_the_start(cluster: Cluster, which: list[int]) -> None:
    """A file whose PID is now another process's is stale, and that process is spared."""
    word, named = _crashed(cluster, which)
    with start_neighbour(["sleep", "600"]) as bystander:
        try:
            _forge_first_line(named, str(bystander.pid))
            cluster.start()
            assert bystander.poll() is None
        finally:
            bystander.kill()
    assert has_row(cluster, word)


@WHICH
def test_zombie_pid_does_not_block_the_start(cluster: Cluster, which: list[int]) -> None:
    """A file whose PID is a zombie is stale, though kill(pid, 0) succeeds."""
    word, named = _crashed(cluster, which)
    with start_neighbour(["true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # ended, and not collected
        os.kill(zombie.pid, 0)
        _forge_first_line(named, str(zombie.pid))
        cluster.start()
    assert has_row(cluster, word)


@WHICH
@pytest.mark.parametrize(
    "content", ["", "\n", "\0\0\0\0", "0\n", "-1\n", "words\n", "9" * 30 + "\n"]
)
def test_cut_off_files_do_not_block_the_start(
    cluster: Cluster, which: list[int], content: str
) -> None:
    """What a power failure left empty or torn is stale: the lock says that nobody starts."""
    word, named = _crashed(cluster, which)
    for path in named:
        path.write_text(content)
    cluster.start()
    assert has_row(cluster, word)


@linux_only
def test_kill_during_initdb_leaves_nothing_half_made(bin_dir: Path, place: Path) -> None:
    """After kill -9 in the middle of initdb the next start makes a whole cluster."""
    data = place / "data"
    with _supervisor(data, bin_dir) as supervisor:
        assert wait_until(lambda: any(data.glob("postgres.incomplete-*/PG_VERSION")), 10)
        supervisor.kill()
        supervisor.wait()
        assert not (data / "postgres").exists()
        with Cluster(data, bin_dir=bin_dir) as cluster:
            word = commit_row(cluster.superuser_url())
        with cluster:
            assert has_row(cluster, word)


def test_leftovers_of_initdb_are_removed(wheel: Path, place: Path) -> None:
    """What a killed initdb left is not taken for a cluster, and does not pile up."""
    leftover = place / "data" / "postgres.incomplete-left"
    leftover.mkdir(parents=True)
    (leftover / "PG_VERSION").write_text("18\n")
    with Cluster(place / "data", bin_dir=wheel):
        assert not list(leftover.parent.glob("postgres.incomplete-*"))


def test_two_supervisors_do_not_share_a_folder(cluster: Cluster, bin_dir: Path) -> None:
    """The second one is told so, the first goes on; when it stopped, the second may start."""
    second = Cluster(cluster.data_dir, bin_dir=bin_dir)
    with pytest.raises(FolderInUseError, match="another secrets-broker"):
        second.start()
    assert query(cluster.superuser_url(), "SELECT 1") == [(1,)]
    cluster.stop()
    with second:
        assert query(second.superuser_url(), "SELECT 1") == [(1,)]


def test_a_failed_start_says_why_and_lets_go(bin_dir: Path, data_dir: Path) -> None:
    """The error ends with PostgreSQL's own words, and the folder can be started again."""
    broken = Cluster(data_dir, bin_dir=bin_dir, settings={"shared_buffers": "nonsense"})
    with pytest.raises(StartError, match='invalid value for parameter "shared_buffers"'):
        broken.start()
    with Cluster(data_dir, bin_dir=bin_dir) as cluster:
        assert query(cluster.superuser_url(), "SELECT 1") == [(1,)]


def test_the_log_does_not_grow_for_ever(cluster: Cluster) -> None:
    """A start sets a large log aside, over the one before it, and still tells of what follows."""
    layout = cluster.layout
    cluster.stop()
    layout.older_log.write_text("from long ago\n")
    with layout.log.open("ab") as log:
        log.truncate(LARGEST_LOG + 1)
    cluster.start()
    assert layout.older_log.stat().st_size == LARGEST_LOG + 1
    assert b"database system is ready" in layout.log.read_bytes()
    assert stat.S_IMODE(layout.log.stat().st_mode) == 0o600


def test_a_log_of_common_size_is_gone_on_with(cluster: Cluster) -> None:
    """What the run before said is where it was."""
    said = cluster.layout.log.read_bytes()
    cluster.stop()
    cluster.start()
    assert cluster.layout.log.read_bytes().startswith(said)


@linux_only
def test_start_off_the_main_thread_is_refused(wheel: Path, place: Path) -> None:
    """Linux would end PostgreSQL with the thread that started it, so that thread must be main."""
    errors: list[Exception] = []

    def begin() -> None:
        try:
            Cluster(place / "data", bin_dir=wheel).start()
        except StartError as error:
            errors.append(error)

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert [("main thread" in str(error)) for error in errors] == [True]

"""One run of PostgreSQL: what is there before it, how it starts, when it is ready.

Before: a postmaster that still runs in the data folder is an orphan, for its supervisor's lock
was free. It is ended, because neither its settings nor its end with us can be relied on. What names
its PID after that, ``postmaster.pid`` and the socket's lock, is removed where that PID belongs to
another process by now, or to a zombie, which nobody may ever reap (a container's PID 1): PostgreSQL
would take both for a living server. Every other ``postmaster.pid`` is left for PostgreSQL to judge.

Right after a kill -9 of the postmaster its last backends may still hold the shared memory, and
PostgreSQL refuses to start beside them. They leave by themselves, so that is tried again.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from secrets_broker.session import SessionError, connect_sync
from secrets_broker.tools.postgres.account import Account
from secrets_broker.tools.postgres.errors import StartError
from secrets_broker.tools.postgres.installation import Installation
from secrets_broker.tools.postgres.layout import SOCKET_NAME, Layout, private_folder
from secrets_broker.tools.postgres.peer_access import SUPERUSER
from secrets_broker.tools.postgres.process import (
    POLL_SECONDS,
    end,
    exists,
    is_postmaster,
    launch,
)

# The caller may override these.
DEFAULTS = {
    "max_connections": "64",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
}
_STAGING = "postgres.incomplete-"
_SOCKET_LOCK = f"{SOCKET_NAME}.lock"
_READY_SECONDS = 60  # crash recovery may have much to read
_ORPHANS_SECONDS = 10
_ORPHANS_MESSAGE = "pre-existing shared memory block"
_LOG_LINES = 15
LARGEST_LOG = 10_000_000
"""In bytes, at a start; what PostgreSQL says in one run comes on top."""


def initialise(layout: Layout, installation: Installation, account: Account) -> None:
    """Make the cluster; until the rename at the end, nothing of it counts."""
    for leftover in layout.home.glob(_STAGING + "*"):  # of a kill in the middle
        shutil.rmtree(leftover, ignore_errors=True)
    # A new name each time: the killed one's initdb may not be quite gone yet.
    staging = private_folder(Path(tempfile.mkdtemp(prefix=_STAGING, dir=layout.home)), account)
    command = [
        *(installation.program("initdb"), "-D", str(staging), "--username=postgres"),
        *("--auth-local=peer", "--auth-host=reject", "--data-checksums"),
        # The C locale is in every build, and sorts everywhere alike.
        *("--encoding=UTF8", "--no-locale"),
    ]
    with launch(command, account, subprocess.PIPE, signal.SIGTERM) as process:
        output, _ = process.communicate()
    if process.returncode != 0:
        raise StartError(f"initdb failed:\n{_last_lines(output)}")
    staging.rename(layout.pgdata)
    _sync_folder(layout.home)


def check_version(layout: Layout, installation: Installation) -> None:
    """Raise StartError where another major version, or no PostgreSQL, made the data folder."""
    try:
        made_by = int((layout.pgdata / "PG_VERSION").read_text())
    except (OSError, ValueError):
        raise StartError(f"{layout.pgdata} holds no cluster: move it away to begin again") from None
    if made_by != installation.major:
        raise StartError(
            f"{layout.pgdata} was made by PostgreSQL {made_by}, and {installation.bin_dir} has "
            f"{installation.version}: use binaries of version {made_by}, or another --data-dir"
        )


def clear_leftovers(layout: Layout, socket_dir: Path) -> None:
    """Deal with an earlier run's postmaster and what names it; the caller holds the lock."""
    pid_file, socket_lock = layout.pgdata / "postmaster.pid", socket_dir / _SOCKET_LOCK
    for named in (pid_file, socket_lock):
        pid = _first_number(named)
        if pid is not None:
            _end_orphan(pid, layout.pgdata)
    pid = _first_number(pid_file)
    if pid is None or exists(pid):
        # Without a number it was cut off by a crash, and PostgreSQL would stop at it.
        pid_file.unlink(missing_ok=True)
    # Nobody else's: the folder is private to this cluster, whose lock we hold. Its memory's state
    # is in the other file.
    _unlink_within(socket_dir, _SOCKET_LOCK)


def _end_orphan(pid: int, pgdata: Path) -> None:
    if is_postmaster(pid, pgdata):
        end(pid, lambda: not is_postmaster(pid, pgdata))


def _unlink_within(folder: Path, name: str) -> None:
    # PostgreSQL's account could put a link where its folder was, and we may be root.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def start(
    layout: Layout,
    installation: Installation,
    account: Account,
    settings: Mapping[str, str],
    socket_dir: Path,
) -> subprocess.Popen[bytes]:
    """A PostgreSQL that answers; raises StartError with the end of its log."""
    command = [installation.program("postgres"), "-D", str(layout.pgdata)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    _rotate_log(layout)
    give_up_on_orphans = time.monotonic() + _ORPHANS_SECONDS
    while True:
        said_before = layout.log.stat().st_size if layout.log.exists() else 0
        with _log_file(layout.log) as log:
            process = launch(command, account, log, signal.SIGINT)
        if _becomes_ready(process, socket_dir):
            return process
        said = layout.log.read_bytes()[said_before:]
        if _ORPHANS_MESSAGE.encode() not in said or time.monotonic() > give_up_on_orphans:
            raise StartError(f"PostgreSQL did not start; {layout.log} ends:\n{_last_lines(said)}")
        time.sleep(0.1)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End our own postmaster and collect its status."""
    if process.poll() is None:
        end(process.pid, lambda: process.poll() is not None)


def _becomes_ready(process: subprocess.Popen[bytes], socket_dir: Path) -> bool:
    """False where it ended by itself or did not answer in time; then it is gone."""
    deadline = time.monotonic() + _READY_SECONDS
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if _answers(socket_dir):
                return True
            time.sleep(POLL_SECONDS)
    except BaseException:  # Ctrl-C while it starts must not leave it behind
        stop(process)
        raise
    stop(process)
    return False


def _answers(socket_dir: Path) -> bool:
    if not (socket_dir / SOCKET_NAME).exists():  # cheaper than a refused connection
        return False
    try:
        # All is said in it: a URL's omissions would be left to the environment's PG* variables.
        place = f"host={quote(str(socket_dir), safe='')}&port=5432"
        url = f"postgresql://{SUPERUSER}@/postgres?{place}"
        connect_sync(url, {}, of_ledger=False).close()
    except SessionError:
        return False
    return True


def _rotate_log(layout: Layout) -> None:
    # Between two runs, when nobody writes it: PostgreSQL holds a descriptor, not the name.
    if layout.log.exists() and layout.log.stat().st_size > LARGEST_LOG:
        layout.log.replace(layout.older_log)


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[int]:
    # Opened by us: PostgreSQL's account gets the descriptor, not the folder.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_number(path: Path) -> int | None:
    try:
        words = path.read_text(errors="replace").split()
    except FileNotFoundError:
        return None
    return int(words[0]) if words and words[0].isdecimal() and int(words[0]) else None


def _last_lines(output: bytes) -> str:
    return "\n".join(output.decode(errors="replace").splitlines()[-_LOG_LINES:])

"""Processes: starting PostgreSQL's programs, knowing its postmaster again, ending it.

A program starts as PostgreSQL's account, with an environment that holds nothing of ours (the
broker's keys are in there), in a session of its own so that a terminal's Ctrl-C reaches the
supervisor alone. On Linux the kernel signals it when the supervisor dies, however it dies.

A postmaster is known by its PID *and* its data folder, for a PID alone may have been reused.
"""

import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from secrets_broker.tools.postgres.account import Account
from secrets_broker.tools.postgres.errors import AccountError, StartError, StopError

LINUX = sys.platform == "linux"
# LC_ALL: the messages are searched in English. TZ: initdb writes it into the settings.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
POLL_SECONDS = 0.02
# Fast shutdown, immediate shutdown (recovers at the next start, loses nothing), and at the very
# last SIGKILL; together under 4 s, because the caller has promised to be gone within 5.
SIGNALS = ((signal.SIGINT, 2.5), (signal.SIGQUIT, 0.9), (signal.SIGKILL, 0.4))
_PR_SET_PDEATHSIG = 1


def launch(
    command: Sequence[str], account: Account, output: int, death_signal: signal.Signals
) -> subprocess.Popen[bytes]:
    """Start a program as the account; output is a file descriptor or subprocess.PIPE."""
    if LINUX and threading.current_thread() is not threading.main_thread():
        # The kernel takes the death of the thread that forked for the parent's death.
        raise StartError("start PostgreSQL from the main thread: it ends with its thread")
    try:
        # S603: the command comes from this package. PLW1509: only one system call is made there,
        # through a library loaded before the fork.
        return subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",  # ours may be closed to the account
            env=ENVIRONMENT,
            user=account.switch_uid,
            group=account.switch_gid,
            extra_groups=account.switch_groups,
            umask=0o077,
            start_new_session=True,
            preexec_fn=end_with_parent(death_signal),  # noqa: PLW1509
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise AccountError(f"cannot run {command[0]} as {account.name}: {error}") from error


def try_as(account: Account, command: Sequence[str]) -> str | None:
    """What a short command prints as the account, or None where it cannot run or fails."""
    try:
        # S603: the command comes from this package.
        done = subprocess.run(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            cwd="/",
            env=ENVIRONMENT,
            user=account.switch_uid,
            group=account.switch_gid,
            extra_groups=account.switch_groups,
        )
    except OSError:
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def end(pid: int, gone: Callable[[], bool]) -> None:
    """Signal a postmaster, ever harder, until it is gone."""
    for number, seconds in SIGNALS:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        if wait_until(gone, seconds):
            return
    raise StopError(f"PostgreSQL (PID {pid}) does not end: look at what it waits for, then kill it")


def wait_until(done: Callable[[], bool], seconds: float) -> bool:
    """Poll until done; False where the time ran out first."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def exists(pid: int) -> bool:
    """Whether the PID is taken, be it by a zombie: that is what PostgreSQL itself asks."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def is_postmaster(pid: int, pgdata: Path) -> bool:
    """Whether the PID is a living PostgreSQL that works in this data folder."""
    return _is_postmaster_linux(pid, pgdata) if LINUX else _is_postmaster_ps(pid, pgdata)


def _is_postmaster_linux(pid: int, pgdata: Path) -> bool:
    folder = Path(f"/proc/{pid}")
    try:
        # "PID (name) state ...", and a name may hold spaces and brackets.
        name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        # A zombie has no working folder, so that it fails here too.
        return (
            name == "postgres" and rest.split()[0] not in "ZX" and (folder / "cwd").samefile(pgdata)
        )
    except OSError:  # gone, or another user's: ours could be read
        return False


def _is_postmaster_ps(pid: int, pgdata: Path) -> bool:
    command = ["/bin/ps", "-ww", "-o", "stat=,command=", "-p", str(pid)]
    # S603: fixed but for a number.
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    state, _, words = done.stdout.strip().partition(" ")
    return not state.startswith("Z") and "postgres" in words and f"-D {pgdata} " in words


def end_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """A preexec_fn that has a child signalled when this process dies; None off Linux."""
    if not LINUX:
        return None
    libc, parent = _libc(), os.getpid()

    def arm() -> None:
        # Runs after the switch of user, which would clear it.
        libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return arm


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)

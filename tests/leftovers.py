"""The suite leaves no process behind: not where a test errors, nor where it is killed itself.

Linux alone tells whose child a process is and makes us the parent of orphans, so elsewhere nothing
is looked at. What is left at the end is ended and named, and the run fails. As we are the parent of
orphans and collect none before the end, they stay zombies meanwhile, as in a container whose PID 1
collects nobody: the suite is a test of that, too.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import processes

GRACE_SECONDS = float(os.environ.get("SUITE_GRACE_SECONDS", "10"))
"""What was told to end, and ends, is not left behind."""

_PR_SET_PDEATHSIG = 1
_LINUX = sys.platform == "linux"
# Python's own, which ends with us.
_NOT_OURS = ("multiprocessing.resource_tracker",)


def pytest_configure(config: Any) -> None:
    """Become the parent of orphans, and take them along where this is ended."""
    if not _LINUX or threading.current_thread() is not threading.main_thread():
        return
    libc = ctypes.CDLL(None)
    libc.prctl(processes.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if hasattr(config, "workerinput"):  # pytest-xdist's: whoever handed out the tests may be killed
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    owner = os.getpid()

    def end(number: int, _frame: object) -> None:
        if os.getpid() == owner:  # not a child between fork and exec
            processes.kill(processes.below(owner))
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, end)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Begun before every other fixture of the session, so it looks when all others have ended."""
    yield
    if left := left_behind():
        pytest.fail(left)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Look once more: where pytest-xdist's processes have ended, what they left is ours."""
    yield
    if hasattr(session.config, "workerinput"):
        return
    if left := left_behind():
        sys.stderr.write(f"\n{left}\n")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def left_behind() -> str:
    """End what is there after a while, and name it."""
    if not _LINUX:
        return ""
    give_up = time.monotonic() + GRACE_SECONDS
    while (left := _running()) and time.monotonic() < give_up:
        time.sleep(0.05)
    processes.kill(left)
    return "".join(f"left behind: {one.pid} {one.command}\n" for one in left)


def _running() -> list[processes.Process]:
    return [
        one
        for one in processes.below(os.getpid())
        if not one.is_over and not any(word in one.command for word in _NOT_OURS)
    ]

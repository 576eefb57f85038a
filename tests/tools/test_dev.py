"""`secrets-broker dev`: started, killed and started again, as a newcomer would."""

import os
import re
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from secrets_broker.tools.postgres.process import wait_until
from tests import processes
from tests.tools.dev_process import Start, folder, start
from tests.tools.postgres.helpers import linux_only
from tests.waiting import until

__all__ = ["folder", "start"]  # fixtures


def listens(port: int) -> bool:
    """Whether anything answers there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_newcomers_first_day(folder: Path, start: Start) -> None:
    """It says when it is ready, serves, keeps keys and data over a restart, and ends in 5 s."""
    dev = start()
    assert dev.first_line == f"ready http://127.0.0.1:{dev.port}"
    assert stat.S_IMODE((dev.data_dir / ".env").stat().st_mode) == 0o600
    stored = dev.post("upsert", host="h", purpose="ssh", password="a-password-of-dev")
    assert stored["success"] is True
    before = dev.settings
    assert dev.end() < 5
    assert not listens(dev.port)

    again = start()
    assert again.post("lookup", host="h", purpose="ssh")["password"] == "a-password-of-dev"
    assert again.settings == before
    assert again.end(signal.SIGINT) < 5
    assert "a-password-of-dev" not in (folder / "log").read_text()


def test_killed_with_everything_it_started(folder: Path, start: Start) -> None:
    """After kill -9 nothing is left running, and the next start has what was acknowledged."""
    dev = start()
    dev.post("upsert", host="h", purpose="ssh", password="p")
    dev.end(signal.SIGKILL)
    until(lambda: not listens(dev.port), "what dev started is still there")
    again = start()
    assert again.post("lookup", host="h", purpose="ssh")["password"] == "p"
    again.end()


NEVER_COLLECTS = f"""
import ctypes, subprocess, sys, time
ctypes.CDLL(None).prctl({processes.PR_SET_CHILD_SUBREAPER}, 1, 0, 0, 0)
subprocess.Popen(sys.argv[1:])
time.sleep(600)
"""


@linux_only
def test_killed_below_a_parent_that_never_collects_it(start: Start) -> None:
    """As in a container whose PID 1 collects nobody: what is a zombie does not hinder a start."""
    first = start(below=[sys.executable, "-c", NEVER_COLLECTS])
    first.post("upsert", host="h", purpose="ssh", password="p")
    running = processes.below(first.process.pid)
    assert any("postgres" in process.command for process in running)
    processes.kill(running)
    assert wait_until(
        lambda: all(process.is_over for process in processes.below(first.process.pid)), 10
    )
    assert processes.below(first.process.pid)
    again = start()
    assert again.first_line == f"ready http://127.0.0.1:{again.port}"
    assert again.post("lookup", host="h", purpose="ssh")["password"] == "p"
    again.end()


def test_a_common_end_is_no_error(folder: Path, start: Start) -> None:
    """Ctrl-C, and a service that is told to begin anew: nothing in the log calls that an error."""
    dev = start()
    os.kill(int((dev.data_dir / "gunicorn.pid").read_text()), signal.SIGHUP)
    eventually(lambda: dev.post("upsert", host="h", purpose="ssh", password="p"))
    dev.end(signal.SIGINT)
    said = (folder / "log").read_text()
    assert "Shutting down" in said
    assert not re.search(r"error|traceback|errno", said, re.IGNORECASE), said


def test_postgresql_killed_under_it(folder: Path, start: Start) -> None:
    """dev starts PostgreSQL again, and the service recovers without a restart."""
    dev = start()
    dev.post("upsert", host="h", purpose="ssh", password="p")
    pid = int((dev.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: dev.post("lookup", host="h", purpose="ssh")["password"]) == "p"
    dev.end()


def eventually(ask: Any) -> Any:
    """Ask until there is an answer, for 15 s at most."""
    deadline = time.monotonic() + 15
    while True:
        try:
            return ask()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


OLDER = (
    "# mine = yes\nSECRETS_KMS_KEY=kept-as-it-was-before\n\n"
    "INTERNAL_KEY='kept too, as it was'\nMY_OWN=1\n"
)


def test_settings_that_an_older_version_did_not_know_are_added(folder: Path, start: Start) -> None:
    """What an .env has is kept to the letter; what it lacks is added."""
    data_dir = folder / "data"
    data_dir.mkdir(mode=0o711)
    (data_dir / ".env").write_text(OLDER)
    dev = start()
    dev.end()
    assert (data_dir / ".env").read_text().startswith(OLDER)
    assert dev.settings["LEDGER_SIGNING_KEY"].startswith("PRIVATE+KEY+")


def test_a_port_that_is_taken_is_told(start: Start) -> None:
    """Another service that answers there is never taken for ours, and that one goes on."""
    first = start()
    second = start(name="another", port=first.port)
    assert (second.process.wait(20), second.first_line) == (2, "")
    assert "choose another --port" in (second.folder / "log").read_text()
    assert not second.data_dir.exists()
    assert first.post("upsert", host="h", purpose="ssh", password="p")["success"] is True


def test_a_list_of_erasures_that_is_not_there(start: Start, folder: Path) -> None:
    """What a restore may have brought back is asked before anything is served."""
    data_dir = folder / "data"
    data_dir.mkdir(mode=0o711)
    (data_dir / ".env").write_text("SECRETS_ERASURES=/no/such/list\n")
    dev = start()
    assert dev.first_line == ""
    assert dev.process.wait(20) == 2
    assert "/no/such/list: there is no such list of erasures" in (folder / "log").read_text()


@pytest.mark.parametrize("name", ["SECRETS_KMS_KEY", "INTERNAL_KEY", "AUDITOR_KEY"])
def test_a_key_that_is_unfit(start: Start, folder: Path, name: str) -> None:
    """One that somebody put there by hand: dev ends, and says what to run; nothing is replaced."""
    data_dir = folder / "data"
    data_dir.mkdir(mode=0o711)
    (data_dir / ".env").write_text(f"{name}=winter2026\n")
    dev = start()
    assert dev.first_line == ""
    assert dev.process.wait(20) != 0
    log = (folder / "log").read_text()
    assert f"{name} has 10 bytes, and 16 is the least" in log
    assert f"secrets-broker keygen | grep '^{name}='" in log
    assert "Traceback" not in log
    assert dev.settings[name] == "winter2026"

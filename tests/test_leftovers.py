"""What the suite does about processes that a test leaves behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from secrets_broker.tools.postgres.process import wait_until
from tests import processes
from tests.repository import ROOT
from tests.tools.postgres.helpers import linux_only

LEAVES = """
import os, signal, subprocess, sys, time

def test_leaves():
    # As a daemon does: not a child of the test's process, and in a session of its own.
    code = "import subprocess; subprocess.Popen(['sleep', '{mark}'], start_new_session=True)"
    subprocess.run([sys.executable, "-c", code], check=True)
    open("left", "w").close()
    {then}
"""
pytestmark = linux_only


def begun(folder: Path, then: str, *options: str) -> "tuple[subprocess.Popen[str], str]":
    """A run of one test that leaves something, and what to know that by."""
    mark = f"600.{abs(hash((folder, then, options))) % 10**9}"
    (folder / "test_it.py").write_text(LEAVES.format(mark=mark, then=then))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.leftovers",
        "-p",
        "no:cacheprovider",
        "-p",
        "xdist",
    ]
    process = subprocess.Popen(
        [*command, *options, "test_it.py"],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "SUITE_GRACE_SECONDS": "0.2",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # a start takes a fifth of the time
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process, f"sleep {mark}"


def found(command: str) -> list[processes.Process]:
    """Those that run with this command line, whoever's they are."""
    return [one for one in processes.below(1) if one.command == command and not one.is_over]


@pytest.mark.long
@pytest.mark.parametrize(
    ("then", "options"),
    [
        ("raise RuntimeError", []),
        ("pass", []),
        ("os._exit(3)", ["-n", "1"]),
        ("os.kill(os.getpid(), signal.SIGKILL)", ["-n", "1"]),
        ("raise RuntimeError", ["-n", "1"]),
    ],
    ids=["error", "success", "exit-xdist", "killed-xdist", "error-xdist"],
)
def test_what_is_left_is_ended_and_told(tmp_path: Path, then: str, options: Sequence[str]) -> None:
    """Whatever became of the test, or of the process that ran it."""
    process, command = begun(tmp_path, then, *options)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"{command}\n" in said
    assert "left behind" in said
    assert found(command) == []


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_takes_everything_along(tmp_path: Path, number: int) -> None:
    """SIGTERM; and SIGKILL of the process that hands out the tests, as far as it can be known."""
    process, command = begun(tmp_path, "time.sleep(600)", "-n", "1")
    try:
        assert wait_until(lambda: (tmp_path / "left").exists() and bool(found(command)), 60)
        process.send_signal(number)
        process.wait(timeout=60)
        assert wait_until(lambda: not found(command), 20)
    finally:
        process.kill()
        process.communicate()

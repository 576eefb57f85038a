"""What the tests share: other users, other processes, and rows that must survive."""

import os
import pwd
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import psycopg
import pytest

from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.postgres.account import Account, postgres_account

REPOSITORY = Path(__file__).parents[3]
LOGIN = "secrets_broker_dev"
IS_ROOT = os.geteuid() == 0
root_only = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's /proc")


def silent(_message: str) -> None:
    """Hear what the cluster says, and pass it on to nobody."""


def account() -> Account:
    """The account that a new cluster runs under here."""
    return postgres_account(Path("/nonexistent"), silent)


def nobody() -> Account:
    """An OS user who has no business with the cluster."""
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def query(url: str, statement: str, *values: str) -> list[tuple[object, ...]]:
    """One statement on a connection of its own; its rows, where it has any."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def commit_row(url: str) -> str:
    """Commit a row that no other test wrote, to look for after a crash."""
    word = secrets.token_hex(8)
    query(url, "CREATE TABLE IF NOT EXISTS kept (word text)")
    query(url, "INSERT INTO kept VALUES (%s)", word)
    return word


def has_row(cluster: Cluster, word: str) -> bool:
    """Whether the row is there, once."""
    rows = query(cluster.superuser_url(), "SELECT 1 FROM kept WHERE word = %s", word)
    return rows == [(1,)]


def run_as(
    who: Account, command: Sequence[str], **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as another user, who takes nothing of ours along."""
    return subprocess.run(
        command,
        user=who.uid,
        group=who.gid,
        extra_groups=[],
        cwd="/",
        env={"PATH": os.defpath, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def start_neighbour(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """A process of PostgreSQL's own account: it takes nobody else's for a running server."""
    who = account()
    return subprocess.Popen(
        command, user=who.switch_uid, group=who.switch_gid, extra_groups=who.switch_groups
    )


def start_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python of ours that runs the code and can be killed."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
    )


@cache
def python_of(who: Account) -> tuple[str, str]:
    """A Python that another user can run the package with, and its PYTHONPATH; or a skip."""
    path = os.pathsep.join([str(REPOSITORY), sysconfig.get_path("purelib")])
    check = "import psycopg, secrets_broker.tools.postgres"
    named = f"python3.{sys.version_info.minor}"  # psycopg's C part is made for one minor version
    for python in (sys.executable, shutil.which(named, path="/usr/local/bin:/usr/bin:/bin")):
        if python is None:
            continue
        try:
            if run_as(who, [python, "-c", check], PYTHONPATH=path).returncode == 0:
                return python, path
        except PermissionError:
            continue
    pytest.skip(f"{who.name} can run no {named} that imports the package from {REPOSITORY}")

"""A primary and its standby on loopback: two clusters that a test can cut, kill and promote."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from secrets_broker.migrations import runner
from secrets_broker.tools.postgres.account import Account, postgres_account
from secrets_broker.tools.postgres.binaries import find_binaries
from secrets_broker.tools.postgres.installation import runnable
from secrets_broker.tools.postgres.layout import SHARED_DIR
from tests.conftest import SERVICE_LOGIN
from tests.ports import free_port
from tests.waiting import until

_CONF = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_wal_senders = 4
shared_buffers = 16MB
"""


@dataclass(frozen=True)
class Server:
    """One of the two."""

    data: Path
    port: int
    bin_dir: Path
    account: Account

    def url(self, login: str = "postgres") -> str:
        """Without a password: it is trusted on loopback."""
        return f"postgresql://{login}@127.0.0.1:{self.port}/postgres?connect_timeout=2"

    def execute(self, statement: str) -> None:
        """As the superuser."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def fetch(self, query: str) -> list[tuple[object, ...]]:
        """As the superuser."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def start(self) -> None:
        """After a crash too: the processes of before have to be gone first."""
        options = f"-p {self.port}"
        command = ["pg_ctl", "-D", str(self.data), "-w", "-o", options, "-l", f"{self.data}.log"]
        give_up = time.monotonic() + 30
        while True:
            try:
                self.run(*command, "start")
            except subprocess.CalledProcessError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)
            else:
                return

    def stop(self) -> None:
        """At once, where it runs."""
        if (self.data / "postmaster.pid").exists():
            self.run("pg_ctl", "-D", str(self.data), "-w", "-m", "immediate", "stop")

    def kill(self) -> None:
        """As the kernel's out-of-memory killer would: the postmaster, and with it all others."""
        pid = int((self.data / "postmaster.pid").read_text().split("\n")[0])
        os.kill(pid, signal.SIGKILL)
        # As pg_ctl has ended, it is a child of ours or of PID 1 (see tests/leftovers.py); and to
        # kill(pid, 0), which PostgreSQL asks before it starts, a zombie is one that runs.
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def run(self, program: str, *words: str) -> None:
        """One of PostgreSQL's programs, as its account."""
        subprocess.run(
            [self.bin_dir / program, *words],
            user=self.account.switch_uid,
            group=self.account.switch_gid,
            extra_groups=self.account.switch_groups,
            cwd="/",
            env={"PATH": f"{self.bin_dir}:/usr/bin:/bin", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )


@dataclass(frozen=True)
class Pair:
    """A migrated ledger and its standby."""

    primary: Server
    standby: Server

    @property
    def url(self) -> str:
        """For a service: whichever of them may be written."""
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return (
            f"postgresql://{SERVICE_LOGIN}@{hosts}/postgres"
            "?target_session_attrs=read-write&connect_timeout=2"
        )

    def follow(self, *, synchronous: bool) -> None:
        """Have the standby follow, and every commit wait for it or not."""
        self.standby.start()
        self.until("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
        names = "*" if synchronous else ""
        self.primary.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self.primary.execute("SELECT pg_reload_conf()")
        if synchronous:
            self.until("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")

    def until(self, query: str) -> None:
        """Wait until a count on the primary is no longer 0."""
        until(lambda: self.primary.fetch(query) != [(0,)], query, seconds=30)

    def fail_over(self) -> None:
        """The primary is lost, and the standby is promoted."""
        self.primary.stop()
        self.standby.start()
        self.standby.run("pg_ctl", "-D", str(self.standby.data), "-w", "promote")


@contextmanager
def standing_by(bin_dir: Path | None) -> Iterator[Pair]:
    """Both made, the primary running."""
    folder = Path(tempfile.mkdtemp(prefix="secrets-broker-standby-"))
    account = postgres_account(Path("/nonexistent"), lambda _: None)
    os.chown(folder, account.uid, account.gid)
    installation = runnable(find_binaries(bin_dir), account, SHARED_DIR, lambda _: None)
    servers = [
        Server(folder / name, free_port(), installation.bin_dir, account)
        for name in ("primary", "standby")
    ]
    primary, standby = servers
    try:
        primary.run(
            *("initdb", "-D", str(primary.data), "-U", "postgres", "--auth=trust", "--no-sync"),
            *("--encoding=UTF8", "--no-locale"),
        )
        with (primary.data / "postgresql.conf").open("a") as file:
            file.write(_CONF)
        primary.start()
        primary.execute(f"CREATE ROLE {SERVICE_LOGIN} LOGIN")
        runner.apply(primary.url(), lambda _: None)
        primary.execute(f"GRANT secrets_broker_service TO {SERVICE_LOGIN}")
        standby.run(
            *("pg_basebackup", "-D", str(standby.data), "-d", primary.url(), "-R"),
            *("--checkpoint=fast", "--no-sync"),
        )
        yield Pair(primary, standby)
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(folder)

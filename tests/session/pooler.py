"""PgBouncer before a PostgreSQL of the tests."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.postgres.account import postgres_account
from secrets_broker.tools.postgres.peer_access import SUPERUSER
from tests.conftest import SERVICE_LOGIN
from tests.ports import free_port

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


class Pooler:
    """One that runs, and where."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.port = folder, free_port()
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str, login: str = SERVICE_LOGIN) -> str:
        """By way of the pooler."""
        return f"postgresql://{login}@127.0.0.1:{self.port}/{database}"

    def owner_url(self, database: str) -> str:
        """The same for the superuser."""
        return self.url(database, SUPERUSER)

    def configure(self, mode: str, **more: str) -> None:
        """Write the settings; a pooler that runs reads them at once."""
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(self.folder / "users"),
            "logfile": str(self.folder / "log"),
            "pool_mode": mode,
            "admin_users": SUPERUSER,
            "stats_period": "1",
            **more,
        }
        database = f"[databases]\n* = host={self._cluster.socket_dir} port=5432\n[pgbouncer]\n"
        text = database + "".join(f"{name} = {value}\n" for name, value in lines.items())
        (self.folder / "ini").write_text(text)
        (self.folder / "users").write_text(f'"{SERVICE_LOGIN}" ""\n"{SUPERUSER}" ""\n')
        if self._process:
            with psycopg.connect(self.owner_url("pgbouncer"), autocommit=True) as admin:
                admin.pgconn.exec_(b"RELOAD")

    def start(self) -> None:
        """Run it as the account that PostgreSQL runs as: it refuses to be root."""
        assert PROGRAM is not None
        who = postgres_account(self._cluster.layout.pgdata, print)
        if who.is_other:
            for path in (self.folder, *self.folder.iterdir()):
                shutil.chown(path, who.uid, who.gid)
        self._process = subprocess.Popen(
            [PROGRAM, "-q", str(self.folder / "ini")],
            user=who.switch_uid,
            group=who.switch_gid,
            extra_groups=who.switch_groups,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"]},
        )
        until = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(self.owner_url("postgres")).close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < until, (self.folder / "log").read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        """End it."""
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)


@contextmanager
def pooling(cluster: Cluster, mode: str, **settings: str) -> Iterator[Pooler]:
    """A pooler of that mode, as long as the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="sb-pool-", dir="/tmp"))
    pooler = Pooler(folder, cluster)
    try:
        pooler.configure(mode, **settings)
        pooler.start()
        yield pooler
    finally:
        pooler.stop()
        shutil.rmtree(folder)


def knows(setting: str) -> bool:
    """Whether this version of PgBouncer has a setting."""
    assert PROGRAM is not None
    said = subprocess.run([PROGRAM, "--version"], check=True, capture_output=True, text=True).stdout
    version = tuple(int(part) for part in said.split()[1].split(".")[:2])
    return {"max_prepared_statements": (1, 21)}[setting] <= version

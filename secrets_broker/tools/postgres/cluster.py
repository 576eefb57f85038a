"""The cluster: one PostgreSQL for one data folder, as long as this process runs.

``start`` takes the folder's lock, makes the cluster where there is none, and returns when it
answers; ``stop`` ends it within 4 s and gives the lock back. Where the process dies without
``stop``, the lock goes with it, and on Linux so does PostgreSQL, by a fast shutdown. ``start``
belongs on the main thread, since Linux takes the end of the starting thread for that death.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from secrets_broker.session import connect_sync
from secrets_broker.tools.postgres import peer_access, server
from secrets_broker.tools.postgres.account import Account, ourselves, postgres_account
from secrets_broker.tools.postgres.binaries import find_binaries
from secrets_broker.tools.postgres.errors import NotRunningError, PostgresError
from secrets_broker.tools.postgres.installation import Installation, runnable
from secrets_broker.tools.postgres.layout import SHARED_DIR, Layout, locate, socket_folder
from secrets_broker.tools.postgres.lock import hold
from secrets_broker.tools.postgres.peer_access import SUPERUSER

_DATABASE = "SELECT 1 FROM pg_database WHERE datname = %s"
_ROLE = "SELECT 1 FROM pg_roles WHERE rolname = %s"
_LOGINS = "SELECT rolname FROM pg_roles WHERE rolcanlogin"


@dataclass(frozen=True, slots=True)
class _Run:
    layout: Layout
    installation: Installation
    account: Account
    socket_dir: Path
    process: Popen[bytes]

    def url(self, role: str, database: str) -> str:
        return socket_url(self.socket_dir, role, database)

    def connect(self) -> "psycopg.Connection[tuple[Any, ...]]":
        return connect_sync(self.url(SUPERUSER, "postgres"), {}, of_ledger=False)


def socket_url(socket_dir: Path, role: str, database: str) -> str:
    """A URL that means the same without quotes in a shell, an env file, and wherever else.

    The folder is the host, percent-encoded (libpq, "Connection URIs"): as a parameter it would
    need an "&" before the port, and without the port the environment's PGPORT would be taken.
    """
    host, user, name = map(_encoded, (str(socket_dir), role, database))
    return f"postgresql://{user}@{host}:5432/{name}"


def _encoded(text: str) -> str:
    return quote(text, safe="").replace("~", "%7E")  # which a shell may take for a home


def _silent(_message: str) -> None:
    pass


class Cluster:
    """A supervisor's handle on the PostgreSQL in a data folder."""

    def __init__(
        self,
        data_dir: Path,
        *,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
        say: Callable[[str], None] = _silent,
        shared_dir: Path = SHARED_DIR,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self._bin_dir = bin_dir
        self._settings = _allowed(settings or {})
        self._say = say
        self._shared_dir = shared_dir
        self._run: _Run | None = None
        self._undo = ExitStack()  # stops the run, then gives the lock back

    def start(self) -> None:
        """Have it answer; nothing to do where it does already."""
        if self.pid is not None:
            return
        self.stop()  # what is left of a run that ended by itself
        with ExitStack() as undo:
            run = self._begin(undo)
            _admit_logins(run)
            self._run, self._undo = run, undo.pop_all()

    def stop(self) -> None:
        """End it; nothing to do where it does not run."""
        self._run = None
        self._undo.close()

    def kill(self) -> None:
        """End the postmaster as a crash would (SIGKILL), for tests."""
        run = self._running()
        run.process.kill()
        run.process.wait()
        self.stop()

    @property
    def pid(self) -> int | None:
        """The postmaster's PID, or None where it does not run."""
        if self._run is None or self._run.process.poll() is not None:
            return None
        return self._run.process.pid

    @property
    def layout(self) -> Layout:
        """Where its files are."""
        return self._running().layout

    @property
    def socket_dir(self) -> Path:
        """The folder of its socket."""
        return self._running().socket_dir

    def url(self, role: str, database: str) -> str:
        """A URL for psql and psycopg; there is no password to put into it."""
        return self._running().url(role, database)

    def superuser_url(self, database: str = "postgres") -> str:
        """The same for the cluster's superuser."""
        return self.url(SUPERUSER, database)

    def ensure_database(self, name: str) -> None:
        """Create the database where it is missing."""
        with self._running().connect() as connection:
            if not connection.execute(_DATABASE, [name]).fetchone():
                query = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'")
                connection.execute(query.format(sql.Identifier(name)))

    def ensure_login(self, role: str, member_of: str | None = None) -> None:
        """Create the login where it is missing; member_of names a role that exists."""
        with self._running().connect() as connection:
            if not connection.execute(_ROLE, [role]).fetchone():
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
            if member_of is not None:
                names = sql.Identifier(member_of), sql.Identifier(role)
                connection.execute(sql.SQL("GRANT {} TO {}").format(*names))
        self.admit_logins()

    def admit_logins(self) -> None:
        """Let in logins that plain SQL created: PostgreSQL before 16 needs to be told."""
        _admit_logins(self._running())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _begin(self, undo: ExitStack) -> _Run:
        account = postgres_account(self.data_dir / "postgres", self._say)
        found = find_binaries(self._bin_dir)
        layout = locate(self.data_dir, account, self._shared_dir, self._say)
        undo.enter_context(hold(layout.lock))
        installation = runnable(found, account, self._shared_dir, self._say)
        if not layout.pgdata.exists():
            server.initialise(layout, installation, account)
        server.check_version(layout, installation)
        folder = socket_folder(layout.home, account)
        server.clear_leftovers(layout, folder)
        peer_access.write_hba(layout, account)
        _write_ident(layout, installation, account, [])
        settings = {**server.DEFAULTS, **self._settings, **_fixed(layout, folder)}
        process = server.start(layout, installation, account, settings, folder)
        undo.callback(server.stop, process)
        return _Run(layout, installation, account, folder, process)

    def _running(self) -> _Run:
        if self._run is None:
            raise NotRunningError("the embedded PostgreSQL does not run: call start() first")
        return self._run


def _admit_logins(run: _Run) -> None:
    if peer_access.needs_logins(run.installation.major):
        with run.connect() as connection:
            logins = [name for (name,) in connection.execute(_LOGINS)]
            _write_ident(run.layout, run.installation, run.account, logins)
            # The postmaster has the signal before it can see the next connection.
            connection.execute("SELECT pg_reload_conf()")


def _write_ident(
    layout: Layout, installation: Installation, account: Account, logins: list[str]
) -> None:
    roles = peer_access.role_fields(installation.major, logins)
    peer_access.write_ident(layout, account, {ourselves().name, account.name}, roles)


def _fixed(layout: Layout, socket_dir: Path) -> dict[str, str]:
    """What makes the cluster private; nobody may set these to something else."""
    return {
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": str(socket_dir),
        "unix_socket_permissions": "0700",
        "hba_file": str(layout.hba),
        "ident_file": str(layout.ident),
        "cluster_name": "secrets-broker",
        "logging_collector": "off",  # its log is ours, on standard error
        "log_destination": "stderr",
    }


def _allowed(settings: Mapping[str, str]) -> dict[str, str]:
    fixed = _fixed(Layout(Path()), Path()).keys()
    # PostgreSQL takes a name in any case, and a dash for an underscore.
    taken = [name for name in settings if name.lower().replace("-", "_") in fixed]
    if taken:
        raise PostgresError(f"the embedded PostgreSQL sets {', '.join(taken)} itself: leave it out")
    return dict(settings)

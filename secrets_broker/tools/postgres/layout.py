"""Where a cluster's files are, and that nobody else can get at them.

    <home>/postgres         the cluster (PGDATA), of PostgreSQL's account, 0700
    <home>/run              the socket's folder, of PostgreSQL's account, 0700
    <home>/postgres.log, postgres.log.1, pg_hba.conf, pg_ident.conf, lock       ours

Home is the broker's data folder. Everything directly in it stays ours and out of reach of
PostgreSQL's account: root must not write where another account could have put a link.

Two things move, and no folder of the user's is ever opened for them:

- As root, where the account cannot reach the data folder, home is
  ``<shared dir>/<12 hex of SHA-256 of the data folder's path>``, and ``postgres`` in the data
  folder becomes a link that remembers it.
- A Unix socket's path is short (103 bytes on macOS): where ``run`` does not fit,
  the socket is in ``/tmp/secrets-broker-<uid>-<12 hex>``, used only if it is wholly private.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from secrets_broker.tools.postgres.account import Account
from secrets_broker.tools.postgres.errors import FolderError
from secrets_broker.tools.postgres.process import try_as

SHARED_DIR = Path("/var/lib/secrets-broker")
SOCKET_NAME = ".s.PGSQL.5432"
_LONGEST_SOCKET_PATH = 100
# libpq and PostgreSQL read these as separators of several folders.
_SEPARATORS = frozenset(',"')


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one cluster."""

    home: Path

    @property
    def pgdata(self) -> Path:
        """The cluster itself."""
        return self.home / "postgres"

    @property
    def log(self) -> Path:
        """What PostgreSQL says."""
        return self.home / "postgres.log"

    @property
    def older_log(self) -> Path:
        """What it said before that became too much for one file."""
        return self.home / "postgres.log.1"

    @property
    def hba(self) -> Path:
        """Who may connect, and how they prove it."""
        return self.home / "pg_hba.conf"

    @property
    def ident(self) -> Path:
        """Which OS user may be which role."""
        return self.home / "pg_ident.conf"

    @property
    def lock(self) -> Path:
        """Held by the one supervisor."""
        return self.home / "lock"


def own_folder(path: Path, mode: int | None = None) -> Path:
    """The folder, made where it is missing; raises FolderError where others could change it.

    The default mode is 0700, for root 0711: PostgreSQL's account must pass, and can list nothing.
    """
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
        path.chmod(mode or (0o700 if os.geteuid() else 0o711))  # whatever the umask is
    except FileExistsError:
        pass
    except OSError as error:
        raise FolderError(f"cannot make {path} ({error.strerror}): choose another folder") from None
    _demand_own(path)
    return path


def locate(
    data_dir: Path, account: Account, shared_dir: Path, say: Callable[[str], None]
) -> Layout:
    """The cluster's place: where it already is, else where the account can reach it."""
    data_dir = own_folder(data_dir)
    pgdata = data_dir / "postgres"
    if pgdata.is_symlink():
        return Layout(own_folder((data_dir / pgdata.readlink()).parent))
    if not account.is_other or try_as(account, ["test", "-x", str(data_dir)]) is not None:
        return Layout(data_dir)
    if pgdata.exists():
        # A fresh cluster elsewhere would look like the loss of this one.
        raise FolderError(
            f"{account.name} cannot reach the cluster in {pgdata}: "
            "move the data folder to where that account may pass"
        )
    home = own_folder(own_folder(shared_dir, 0o755) / _short_name(data_dir), 0o711)
    pgdata.symlink_to(home / "postgres")
    say(f"the database is in {home}: PostgreSQL's account {account.name} cannot reach {data_dir}")
    return Layout(home)


def socket_folder(home: Path, account: Account) -> Path:
    """The private folder for the socket, made where it is missing."""
    folder = home / "run"
    if not _fits(folder):
        # S108: made and checked below to be nobody else's. And not the TMPDIR, which may be long.
        folder = Path("/tmp") / f"secrets-broker-{account.uid}-{_short_name(home)}"  # noqa: S108
    return private_folder(folder, account)


def private_folder(path: Path, account: Account) -> Path:
    """A folder of the account's that nobody else may enter; FolderError where it is not so."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and account.is_other:
        # Ours: just made, or left by a kill before this line.
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
        found = path.lstat()
    # The low nine bits: a set-group-ID parent hands that bit down, and it opens nothing.
    private = stat.S_ISDIR(found.st_mode) and found.st_mode & 0o777 == stat.S_IRWXU
    if not private or found.st_uid != account.uid:
        raise FolderError(
            f"{path} is not a private folder (0700) of {account.name}: "
            "see who made it, then remove it"
        )
    return path


def _demand_own(path: Path) -> None:
    found = path.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise FolderError(f"{path} is not a folder: choose another --data-dir")
    if found.st_uid != os.geteuid():
        raise FolderError(
            f"{path} belongs to uid {found.st_uid}, not to you (uid {os.geteuid()}): "
            "run as its owner, or choose another --data-dir"
        )
    if found.st_mode & 0o022:
        raise FolderError(f"{path} can be written by others: chmod go-w it first")


def _fits(folder: Path) -> bool:
    path = str(folder / SOCKET_NAME)
    return len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH and not _SEPARATORS & set(path)


def _short_name(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]

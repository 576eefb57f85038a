"""Who runs PostgreSQL.

PostgreSQL refuses to run as root, so:

1. an ordinary user runs it as themselves;
2. root runs an existing cluster as its owner,
3. else as ``postgres`` where that account exists,
4. else as the system account ``secrets-broker``, which is created and said so.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from secrets_broker.tools.postgres.errors import AccountError

SYSTEM_ACCOUNT = "secrets-broker"


@dataclass(frozen=True, slots=True)
class Account:
    """An OS user; the switch_* values are what subprocess takes, None where none is needed."""

    name: str
    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """Whether becoming this account is a switch."""
        return self.uid != os.geteuid()

    @property
    def switch_uid(self) -> int | None:
        """For subprocess's user=."""
        return self.uid if self.is_other else None

    @property
    def switch_gid(self) -> int | None:
        """For subprocess's group=."""
        return self.gid if self.is_other else None

    @property
    def switch_groups(self) -> list[int] | None:
        """For subprocess's extra_groups=: root's groups must not come along."""
        return [] if self.is_other else None


def ourselves() -> Account:
    """The user who runs this process; peer needs a name, so an unnamed uid is an error."""
    uid = os.geteuid()
    try:
        return _account(pwd.getpwuid(uid))
    except KeyError:
        raise AccountError(
            f"uid {uid} has no name in the user database, and PostgreSQL needs one: "
            "add it to /etc/passwd, or run as another user"
        ) from None


def postgres_account(pgdata: Path, say: Callable[[str], None]) -> Account:
    """The account for PostgreSQL, by the rules of this module's docstring."""
    if os.geteuid() != 0:
        return ourselves()
    if pgdata.exists():
        return _owner(pgdata)
    for name in ("postgres", SYSTEM_ACCOUNT):
        found = _lookup(name)
        if found is not None:
            return found
    return _create(SYSTEM_ACCOUNT, say)


def _owner(pgdata: Path) -> Account:
    try:
        entry = pwd.getpwuid(pgdata.stat().st_uid)
    except KeyError:
        raise AccountError(f"the owner of {pgdata} is no account of this machine") from None
    if entry.pw_uid == 0:
        raise AccountError(f"{pgdata} is root's, and PostgreSQL does not run as root: move it away")
    return _account(entry)


def _lookup(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    if entry.pw_uid == 0:
        raise AccountError(f"the account {name} is root's twin (uid 0): PostgreSQL refuses that")
    return _account(entry)


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _create(name: str, say: Callable[[str], None]) -> Account:
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        raise AccountError(
            "PostgreSQL does not run as root, and there is no useradd to make an account for it: "
            f"run as an ordinary user, or create a system account named {name}"
        )
    command = [useradd, "--system", "--no-create-home", "--user-group", "--shell", _nologin(), name]
    # S603: the command holds only this module's constants.
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    found = _lookup(name)
    if found is None:
        raise AccountError(
            f"could not create the system account {name} ({done.stderr.strip()}): "
            "create it by hand, or run as an ordinary user"
        )
    say(f"created the system account {name}: PostgreSQL does not run as root")
    return found


def _nologin() -> str:
    shells = ("/usr/sbin/nologin", "/sbin/nologin")
    return next((shell for shell in shells if Path(shell).exists()), "/bin/false")

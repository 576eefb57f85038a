"""Who may connect: peer, through the socket, and nobody else.

The kernel names the OS user at the other end of a Unix socket, and the map ``broker`` says which
roles that user may be. Two users are in the map: the one who runs the broker, and PostgreSQL's
account. There is no password, and every network connection is rejected, twice over: PostgreSQL
does not listen.

The files are written again at every start and named on the command line, so that neither an older
version's rules nor ALTER SYSTEM stay in force. From version 16 ``all`` stands for every role;
before, the roles are listed, and the list follows the logins that there are.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from secrets_broker.tools.postgres.account import Account
from secrets_broker.tools.postgres.layout import Layout

SUPERUSER = "postgres"
_HBA = """\
local all         all     peer map=broker
host  all         all all reject
host  replication all all reject
"""
_ALL_SINCE = 16


def write_hba(layout: Layout, account: Account) -> None:
    """The rules for connections."""
    _write(layout.hba, _HBA, account)


def write_ident(
    layout: Layout, account: Account, users: Iterable[str], roles: Iterable[str]
) -> None:
    """The map from OS users to roles, as roles_field gave them."""
    lines = [f"broker {_quoted(user)} {role}\n" for user in sorted(users) for role in roles]
    _write(layout.ident, "".join(lines), account)


def role_fields(major: int, logins: Iterable[str] = ()) -> list[str]:
    """The map's right side: everyone, or for older versions the superuser and these logins."""
    if major >= _ALL_SINCE:
        return ["all"]  # unquoted, or it would be a role of that name
    return [_quoted(role) for role in sorted({SUPERUSER, *logins})]


def needs_logins(major: int) -> bool:
    """Whether the map must follow the roles that there are."""
    return major < _ALL_SINCE


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _write(path: Path, text: str, account: Account) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        # PostgreSQL's account reads it and must not write it.
        os.fchmod(descriptor, 0o644 if account.is_other else 0o600)
        file.write(text)

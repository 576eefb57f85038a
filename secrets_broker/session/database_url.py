"""Database URLs: read strictly, so that no message repeats a part of a password.

libpq's messages quote what it takes for a host or a port. If an "@" or a "/" of a password is not
percent-encoded, that is a part of the password.
"""

import re

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

_AFTER_USER = re.compile(r"postgres(?:ql)?://(?:[^@/]*@)?([^?]*)")
_PORTS = re.compile(r"[0-9,]*")
_NAME = re.compile(r"[A-Za-z_]{1,40}")
# Text after one of these in a query may be the rest of a password that holds a bare "&".
_SECRET = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")


class DatabaseUrlError(ValueError):
    """The URL is malformed, or hardly means what was meant; the text does not repeat it."""


def parse(database_url: str) -> dict[str, str]:
    """The URL's parts as libpq names them; raises DatabaseUrlError."""
    match = _AFTER_USER.match(database_url)
    if match is None:
        raise DatabaseUrlError("the database URL must begin with postgresql://")
    try:
        given = conninfo_to_dict(database_url)
    except (psycopg.Error, ValueError):
        raise _unknown_parameter(database_url) or _unreadable() from None
    if "@" in match[1] or not _PORTS.fullmatch(str(given.get("port") or "")):
        raise _unreadable()
    return {name: str(value) for name, value in given.items()}


def _unknown_parameter(database_url: str) -> DatabaseUrlError | None:
    """Name the first parameter that libpq does not know, unless it may be part of a secret."""
    before, _, query = database_url.partition("?")
    match = _AFTER_USER.match(before)
    if match is None or "@" in match[1] or "@" in query:
        return None
    known = {option.keyword.decode() for option in Conninfo.get_defaults()} | {"ssl"}
    for name in (pair.partition("=")[0] for pair in query.split("&")):
        if name in _SECRET or not _NAME.fullmatch(name):
            return None
        if name not in known:
            return DatabaseUrlError(
                f"the database URL has a parameter that PostgreSQL's clients do not know: {name}"
            )
    return None


def _unreadable() -> DatabaseUrlError:
    return DatabaseUrlError(
        "the database URL cannot be read: in it, special characters of a user's name, a password "
        "or a folder are percent-encoded (@ is %40, / is %2F, % is %25)"
    )

"""A connection that a batch can rely on: its limits, its plans, and that a commit is durable."""

from collections.abc import Mapping
from typing import Any, Final

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

from secrets_broker.database_url import DatabaseUrlError, parse
from secrets_broker.ledger.errors import LedgerUnavailableError

_log = structlog.get_logger(__name__)

# A writer that freezes while it holds the lock is cut off by the server (idle in transaction)
# before the others give up waiting for the lock.
SESSION: Final = {
    "timezone": "UTC",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "3s",
    "statement_timeout": "7s",
    "client_min_messages": "warning",
    # The plans are index look-ups by key whatever the statistics say, and stay so while an
    # empty table grows; a plan made anew or compiled each time would cost more than it gains.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
# A tool reads whole tables, once; what makes a batch quick would make it slow.
TOOL_SESSION: Final = {
    **SESSION,
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
    "plan_cache_mode": "auto",
    "enable_seqscan": "on",
    "enable_hashjoin": "on",
    "enable_mergejoin": "on",
    "work_mem": "64MB",
}
_TCP: Final = {
    "connect_timeout": "3",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "8000",
}
_MIN_SERVER_VERSION: Final = 140_000


async def connect(database_url: str, session: Mapping[str, str] = SESSION) -> AsyncConnection[Any]:
    """Connect and check what the ledger relies on; raises LedgerUnavailableError."""
    try:
        conninfo = _conninfo(database_url, session)
    except DatabaseUrlError as error:
        raise LedgerUnavailableError(str(error)) from None
    try:
        connection = await AsyncConnection.connect(conninfo, autocommit=True)
    except psycopg.Error as error:
        raise LedgerUnavailableError(f"the database does not answer: {_words(error)}") from None
    try:
        await _check_server(connection)
    except psycopg.Error as error:
        await connection.close()
        raise LedgerUnavailableError(f"the database refused: {_words(error)}") from None
    except BaseException:
        await connection.close()
        raise
    return connection


async def _check_server(connection: AsyncConnection[Any]) -> None:
    if connection.info.server_version < _MIN_SERVER_VERSION:
        raise LedgerUnavailableError("PostgreSQL 14 or newer is needed")
    cursor = await connection.execute(
        "SELECT current_setting('synchronous_commit'), current_setting('server_encoding'),"
        " current_setting('fsync')"
    )
    durable, encoding, fsync = (await cursor.fetchall())[0]
    if durable == "off":
        raise LedgerUnavailableError(
            "synchronous_commit is off: a secret could leave before its record is on disk"
        )
    if encoding != "UTF8":
        raise LedgerUnavailableError("the database's encoding must be UTF8")
    if fsync == "off":
        _log.warning("fsync_is_off", consequence="a crash of the machine can lose events")
    # Pinned, so that a reload of the server's configuration cannot switch it off under us.
    await connection.execute("SELECT set_config('synchronous_commit', %s, false)", (durable,))


def _conninfo(database_url: str, session: Mapping[str, str]) -> str:
    given = parse(database_url)
    options = " ".join(f"-c {name}={value}" for name, value in session.items())
    defaults = {"application_name": "secrets-broker", **_TCP}
    given["options"] = f"{given.get('options', '')} {options}".strip()
    return make_conninfo("", **{**defaults, **given})


def _words(error: psycopg.Error) -> str:
    # libpq's text names host, port, user and database, never the password.
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

"""The ledger's session settings, in addition to those of every session."""

from collections.abc import Mapping
from typing import Final

from secrets_broker import session as sessions
from secrets_broker.ledger.errors import LedgerUnavailableError, NotGrantedError
from secrets_broker.session import Session

# A writer that freezes while it holds the lock is cut off by the server (idle in transaction)
# before the others give up waiting for the lock.
SESSION: Final = {
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "3s",
    "statement_timeout": "7s",
    # The plans are index look-ups by key whatever the statistics say, and stay so while an
    # empty table grows; replanning or compiling each time would cost more than it gains.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
# A tool reads whole tables once: the settings that make a batch fast would slow it down.
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


async def connect(database_url: str, session: Mapping[str, str] = SESSION) -> Session:
    """A session with these settings; raises LedgerUnavailableError."""
    try:
        return await sessions.connect(database_url, session)
    except sessions.RoleMissingError as error:
        raise NotGrantedError(str(error)) from None
    except sessions.SessionError as error:
        raise LedgerUnavailableError(str(error)) from None


async def check_ours(connection: Session) -> None:
    """Raise LedgerUnavailableError if a pooler gave us another session meanwhile."""
    try:
        await connection.check_ours()
    except sessions.SessionError as error:
        raise LedgerUnavailableError(str(error)) from None

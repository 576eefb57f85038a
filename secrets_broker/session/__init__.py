"""Where every session with PostgreSQL begins: the service's, the migrations', and every tool's.

Nothing else in the package opens a connection. What a session is set to follows from here alone:
no setting of the database, the role, the environment or the URL changes what we read or write.
"""

from secrets_broker.session.errors import (
    NotGrantedError,
    SessionError,
    grant_line,
    safe_message,
    with_grant,
)
from secrets_broker.session.opening import CONNECT_SECONDS, Session, connect, connect_sync

__all__ = [
    "CONNECT_SECONDS",
    "NotGrantedError",
    "Session",
    "SessionError",
    "connect",
    "connect_sync",
    "grant_line",
    "safe_message",
    "with_grant",
]

"""Opens every session with PostgreSQL: for the service, the migrations and every tool.

Here are the database URL, the choice of a host, a session's settings, and the check that they took.
No setting of the database, the role, the environment or the URL changes what is read or written.
Statements about our own tables do not belong here. No other room opens a connection.
"""

from secrets_broker.session.errors import (
    RoleMissingError,
    SessionError,
    grant_line,
    safe_message,
    with_grant,
)
from secrets_broker.session.opening import CONNECT_SECONDS, Session, connect, connect_sync

__all__ = [
    "CONNECT_SECONDS",
    "RoleMissingError",
    "Session",
    "SessionError",
    "connect",
    "connect_sync",
    "grant_line",
    "safe_message",
    "with_grant",
]

"""Every session with PostgreSQL begins here: the service's, the migrations', and every tool's.

Here live the URL of a database, the choice of a host, what a session is set to, and the proof that
it is set so. No setting of the database, the role, the environment or the URL changes what is read
or written. No statement about our own tables belongs here, and nowhere else is a connection
opened.
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

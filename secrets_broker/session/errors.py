"""Why a session could not begin, or is not ours any more. No text holds a password."""

from typing import Final

import psycopg

SERVICE_ROLE: Final = "secrets_broker_service"
AUDITOR_ROLE: Final = "secrets_broker_auditor"

POOLER: Final = (
    "a connection pooler before PostgreSQL gives one client's session to others (transaction or "
    "statement pooling): have it pool by session, or connect without it; see docs/operations.md"
)


class SessionError(Exception):
    """No session that can be relied on."""


class NotGrantedError(SessionError):
    """The login lacks our role; the text is the line to run."""


def grant_line(login: str, role: str = SERVICE_ROLE) -> str:
    """What the owner of the schema runs for a login, to be pasted as it is."""
    quoted = login.replace('"', '""')
    return f'GRANT {role} TO "{quoted}";'


def not_granted(login: str, *, is_member: bool) -> NotGrantedError:
    """The error for a login that may not use schema ledger."""
    if is_member:  # PostgreSQL: a NOINHERIT member has a role's rights only after SET ROLE
        quoted = login.replace('"', '""')
        return NotGrantedError(
            f"the login {login} is a member of {SERVICE_ROLE}, but does not inherit its rights. "
            f'As the owner of the schema, run: ALTER ROLE "{quoted}" INHERIT; {grant_line(login)}'
        )
    return NotGrantedError(
        f"the login {login} may not use this ledger. As the owner of the schema, run: "
        f"{grant_line(login)} (for an auditor's login: {AUDITOR_ROLE})"
    )


def words(error: psycopg.Error) -> str:
    """PostgreSQL's message alone, since a detail line quotes values; and what would help."""
    why = error.diag.message_primary or type(error).__name__
    if error.sqlstate != "42501":  # insufficient_privilege
        return why
    pgconn = error.pgconn
    login = pgconn.user.decode() if pgconn and pgconn.user else "LOGIN"
    return f"{why}. Where {login} is to serve, run as the owner of the schema: {grant_line(login)}"


def first_line(error: psycopg.Error) -> str:
    """libpq's own words, which name host, port, user and database, and never the password."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)

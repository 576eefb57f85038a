"""Why a session could not begin, or is no longer ours. No text holds a password."""

from typing import Final

import psycopg

SERVICE_ROLE: Final = "secrets_broker_service"
AUDITOR_ROLE: Final = "secrets_broker_auditor"

POOLER: Final = (
    "a connection pooler before PostgreSQL gives one client's session to others (transaction or "
    "statement pooling): have it pool by session, or connect without it; see docs/operations.md"
)

# SQLSTATE, class 22: 'invalid input syntax for type integer: "…"'.
_DATA_EXCEPTION: Final = "22"
_QUOTES_NOTHING: Final = ("22001", "22012")  # a string that is too long, a division by zero


class SessionError(Exception):
    """There is no session that can be relied on."""


class RoleMissingError(SessionError):
    """The login lacks our role; the text is the line to run."""


def grant_line(login: str, role: str = SERVICE_ROLE) -> str:
    """The line that the owner of the schema runs for a login, ready to paste."""
    quoted = login.replace('"', '""')
    return f'GRANT {role} TO "{quoted}";'


def not_granted(login: str, *, is_member: bool) -> RoleMissingError:
    """The error for a login without the right to use schema ledger."""
    if is_member:  # PostgreSQL: a NOINHERIT member has a role's rights only after SET ROLE
        quoted = login.replace('"', '""')
        return RoleMissingError(
            f"the login {login} is a member of {SERVICE_ROLE}, but does not inherit its rights. "
            f'As the owner of the schema, run: ALTER ROLE "{quoted}" INHERIT; {grant_line(login)}'
        )
    return RoleMissingError(
        f"the login {login} may not use this ledger. As the owner of the schema, run: "
        f"{grant_line(login)} (for an auditor's login: {AUDITOR_ROLE})"
    )


def safe_message(error: BaseException) -> str:
    """An error in one line that holds no value of a row, no password and no URL.

    This is the only place that makes texts from errors of psycopg; use it for any error. PostgreSQL
    quotes values in its detail, hint and context lines, and in the message itself if data is at
    fault: all of these are left out. Of an unforeseen error only the type is told.
    """
    if isinstance(error, psycopg.Error):
        return _of_database(error)
    if isinstance(error, OSError) or _is_ours(error):
        return str(error) or type(error).__name__
    return f"unexpected {type(error).__qualname__}"


def with_grant(error: BaseException) -> str:
    """As `safe_message`; if the login lacks a right, also the line that grants it."""
    why = safe_message(error)
    if not isinstance(error, psycopg.errors.InsufficientPrivilege):
        return why
    pgconn = error.pgconn
    login = pgconn.user.decode() if pgconn and pgconn.user else "LOGIN"
    return f"{why}. Where {login} is to serve, run as the owner of the schema: {grant_line(login)}"


def _of_database(error: psycopg.Error) -> str:
    state = error.sqlstate
    text = error.diag.message_primary or ""
    if state is None and isinstance(error, psycopg.OperationalError):
        # libpq's connection errors name host, port, user and database, never the password.
        text = str(error)
    elif (state or "").startswith(_DATA_EXCEPTION) and state not in _QUOTES_NOTHING:
        text = ""
    named = f"{type(error).__name__} (SQLSTATE {state})" if state else type(error).__name__
    return next((line.strip() for line in text.splitlines() if line.strip()), named)


def _is_ours(error: BaseException) -> bool:
    """Whether the error is this package's own, whose texts never hold a value."""
    return type(error).__module__.partition(".")[0] == __name__.partition(".")[0]

"""Why a session could not begin, or is not ours any more. No text holds a password."""

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
    """No session that can be relied on."""


class RoleMissingError(SessionError):
    """The login lacks our role; the text is the line to run."""


def grant_line(login: str, role: str = SERVICE_ROLE) -> str:
    """What the owner of the schema runs for a login, to be pasted as it is."""
    quoted = login.replace('"', '""')
    return f'GRANT {role} TO "{quoted}";'


def not_granted(login: str, *, is_member: bool) -> RoleMissingError:
    """The error for a login that may not use schema ledger."""
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
    """What may be told of an error, in a line: no value of a row, no password, no URL.

    The only place that puts an error of psycopg in words, and the one to ask about any error.
    PostgreSQL quotes values in its detail, hint and context lines, and in the message itself where
    data is at fault: none of these is told. What nobody foresaw is only named.
    """
    if isinstance(error, psycopg.Error):
        return _of_database(error)
    if isinstance(error, OSError) or _is_ours(error):
        return str(error) or type(error).__name__
    return f"unexpected {type(error).__qualname__}"


def with_grant(error: BaseException) -> str:
    """The same and, where PostgreSQL says that the login lacks a right, the line that grants it."""
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
        # libpq's own words of a connection name host, port, user and database, never the password.
        text = str(error)
    elif (state or "").startswith(_DATA_EXCEPTION) and state not in _QUOTES_NOTHING:
        text = ""
    named = f"{type(error).__name__} (SQLSTATE {state})" if state else type(error).__name__
    return next((line.strip() for line in text.splitlines() if line.strip()), named)


def _is_ours(error: BaseException) -> bool:
    """Whether its text is written here, by the rule that it never holds a value."""
    return type(error).__module__.partition(".")[0] == __name__.partition(".")[0]

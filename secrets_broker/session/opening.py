"""Opens sessions: finds a host that answers, applies the settings, and reads them back."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from secrets_broker.session import hosts, session_settings
from secrets_broker.session.database_url import DatabaseUrlError, parse
from secrets_broker.session.errors import POOLER, SessionError, safe_message
from secrets_broker.session.prepared_names import NamedStatements

_log = structlog.get_logger(__name__)

CONNECT_SECONDS: Final = 4.0
"""For all hosts of a URL together: less than a question's 5 s and a batch's 10 s."""
_OPENING_SECONDS: Final = 4.0  # a pooler without a free session lets a client wait silently
_PROBE_SECONDS: Final = 1.0
_TOOL_SECONDS: Final = 10.0
_RESOLVING_PART: Final = 0.25
_SILENT: Final = (
    "the database took the connection, but does not answer (a pooler may have no session left)"
)
# undefined_object, invalid_name: this session lacks the marker.
_NOT_OURS: Final = ("42704", "42602")
# invalid_sql_statement_name, duplicate_prepared_statement: another session prepared it.
_MIXED: Final = (*_NOT_OURS, "26000", "42P05")


class Session(AsyncConnection[Any]):
    """A connection with our settings, which can check that it still is the same session."""

    marker: session_settings.Marker

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._prepared = NamedStatements()

    async def check_ours(self) -> None:
        """Raise SessionError if a pooler gave us another session; other failures: psycopg.Error."""
        try:
            await self.execute(f"SELECT {self.marker.expression}".encode())
        except psycopg.Error as error:
            if is_mixed(error):
                raise SessionError(POOLER) from None
            raise


def is_mixed(error: psycopg.Error) -> bool:
    """Whether a statement that reads the marker failed because this is another session."""
    return error.sqlstate in _MIXED


async def connect(
    database_url: str, wanted: Mapping[str, str], *, seconds: float = CONNECT_SECONDS
) -> Session:
    """A session in autocommit with these settings; raises SessionError."""
    given = _parse(database_url)
    try:
        return await _opened(given, wanted, seconds)
    except _LostError:
        # Retry once, since nothing was written yet: the server may have restarted, or a pooler
        # may have used an old connection.
        try:
            return await _opened(given, wanted, seconds)
        except _LostError as lost:
            raise SessionError(f"the database broke off: {lost}") from None


class _LostError(Exception):
    """The connection broke while the session was set up."""


async def _opened(given: hosts.Given, wanted: Mapping[str, str], seconds: float) -> Session:
    session, conninfo = await _connected(given, seconds)
    try:
        async with asyncio.timeout(_OPENING_SECONDS):
            await _begin(session, conninfo, wanted)
    except TimeoutError:
        await session.close()
        raise SessionError(_SILENT) from None
    except psycopg.Error as error:
        lost = session.closed
        await session.close()
        raise _LostError(safe_message(error)) if lost else _refused(error) from None
    except BaseException:
        await session.close()
        raise
    return session


def connect_sync(
    database_url: str, wanted: Mapping[str, str], *, of_ledger: bool = True
) -> psycopg.Connection[TupleRow]:
    """As `connect`, synchronously; `of_ledger` False is for any database of a cluster."""
    connection, conninfo = _connected_sync(_parse(database_url))
    try:
        _begin_sync(connection, conninfo, wanted, of_ledger=of_ledger)
    except psycopg.Error as error:
        connection.close()
        raise _refused(error) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _begin_sync(
    connection: psycopg.Connection[TupleRow],
    conninfo: str,
    wanted: Mapping[str, str],
    *,
    of_ledger: bool,
) -> None:
    session_settings.check_version(connection.info.server_version)
    marker = session_settings.Marker()
    cursor = connection.execute(session_settings.set_all(marker, wanted).encode())
    ((durable, _),) = cursor.fetchall()
    cursor.nextset()
    took = cursor.fetchall()
    cursor = connection.execute(session_settings.read_back(marker, took).encode())
    cursor.nextset()
    facts = session_settings.facts(cursor.fetchall()[0])
    session_settings.check(facts, wanted, durable, of_ledger=of_ledger)
    if facts.backend_pid != connection.pgconn.backend_pid:
        with ThreadPoolExecutor(1) as beside:  # this thread may already run an event loop
            beside.submit(lambda: asyncio.run(_check_pooler(conninfo, marker))).result()
        connection.execute(f"SELECT {marker.expression}".encode())


def _parse(database_url: str) -> hosts.Given:
    try:
        return parse(database_url)
    except DatabaseUrlError as error:
        raise SessionError(str(error)) from None


async def _begin(session: Session, conninfo: str, wanted: Mapping[str, str]) -> None:
    session_settings.check_version(session.info.server_version)
    session.marker = session_settings.Marker()
    cursor = await session.execute(session_settings.set_all(session.marker, wanted).encode())
    ((durable, _),) = await cursor.fetchall()
    cursor.nextset()
    took = await cursor.fetchall()
    cursor = await session.execute(session_settings.read_back(session.marker, took).encode())
    cursor.nextset()
    facts = session_settings.facts((await cursor.fetchall())[0])
    session_settings.check(facts, wanted, durable, of_ledger=True)
    if facts.fsync == "off" and session_settings.is_writing(wanted):
        _log.warning("fsync_is_off", consequence="a crash of the machine can lose events")
    if facts.backend_pid != session.pgconn.backend_pid:
        await _check_pooler(conninfo, session.marker)
        await session.check_ours()


async def _check_pooler(conninfo: str, marker: session_settings.Marker) -> None:
    """Raise SessionError if a pooler gives our idle session to the next client.

    The process id in the greeting is not the server process's, so there is a pooler. If the pooler
    has no free session, a second client waits: then it did not give ours away.
    """
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            other = await AsyncConnection.connect(conninfo, autocommit=True)
            try:
                found = await (await other.execute(marker.is_there)).fetchall()
            finally:
                await other.close()
    except (TimeoutError, psycopg.Error):
        return
    if found != [(None,)]:
        raise SessionError(POOLER)


async def _connected(given: hosts.Given, seconds: float) -> tuple[Session, str]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    tries, failures = await _resolved(hosts.attempts(given), seconds * _RESOLVING_PART)
    for index, attempt in enumerate(tries):
        share = hosts.limit(given, max(0.1, (deadline - loop.time()) / (len(tries) - index)))
        conninfo = hosts.conninfo(attempt, share)
        try:
            async with asyncio.timeout(share):
                session = await Session.connect(conninfo, autocommit=True)
        except TimeoutError:
            failures.append((hosts.name(attempt), f"no answer within {share:.1f} s"))
        except psycopg.Error as error:
            failures.append((hosts.name(attempt), safe_message(error)))
        else:
            _skipped.tell(failures, attempt)
            return session, conninfo
    raise _no_answer(failures)


def _connected_sync(given: hosts.Given) -> tuple[psycopg.Connection[TupleRow], str]:
    tries = hosts.attempts(given)
    failures: list[tuple[str, str]] = []
    for attempt in tries:
        share = hosts.limit(given, _TOOL_SECONDS / len(tries))
        conninfo = hosts.conninfo(attempt, share)
        try:
            connection = psycopg.Connection.connect(
                conninfo, autocommit=True, prepare_threshold=None
            )
        except psycopg.Error as error:
            failures.append((hosts.name(attempt), safe_message(error)))
        else:
            _skipped.tell(failures, attempt)
            return connection, conninfo
    raise _no_answer(failures)


class _Skipped:
    """Logs skipped hosts once, not at every connection."""

    def __init__(self) -> None:
        self._said: tuple[str, ...] = ()

    def tell(self, failures: Sequence[tuple[str, str]], attempt: hosts.Given) -> None:
        taken = hosts.name(attempt)
        now = (*(where for where, _ in failures), taken) if failures else ()
        if now and now != self._said:
            _log.warning("database_hosts_skipped", why=hosts.together(failures), taken=taken)
        self._said = now


_skipped = _Skipped()


def _no_answer(failures: Sequence[tuple[str, str]]) -> SessionError:
    return SessionError(f"the database does not answer: {hosts.together(failures)}")


def _refused(error: psycopg.Error) -> SessionError:
    if is_mixed(error):
        return SessionError(POOLER)
    return SessionError(f"the database refused: {safe_message(error)}")


async def _resolved(
    tries: Sequence[hosts.Given], seconds: float
) -> tuple[list[hosts.Given], list[tuple[str, str]]]:
    """An attempt for each address of each host, and the hosts whose names do not resolve."""
    found = await asyncio.gather(*(_addresses(attempt, seconds) for attempt in tries))
    known: list[hosts.Given] = []
    failures = []
    for attempt, addresses in zip(tries, found, strict=True):
        if isinstance(addresses, str):
            failures.append((hosts.name(attempt), addresses))
        else:
            known += [{**attempt, **address} for address in addresses]
    return known, failures


async def _addresses(attempt: hosts.Given, seconds: float) -> list[hosts.Given] | str:
    host = attempt.get("host", "")
    if not host or host.startswith(("/", "@")) or attempt.get("hostaddr"):
        return [{}]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            answers = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        return f"its name was not resolved within {seconds:.1f} s"
    except (OSError, UnicodeError) as error:
        return f"its name cannot be resolved: {getattr(error, 'strerror', None) or 'malformed'}"
    return [{"hostaddr": str(address[0])} for *_, address in answers]

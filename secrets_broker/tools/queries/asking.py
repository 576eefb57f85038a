"""Putting a question: page after page, each a short transaction, written as it comes.

It is put to the database, or with --url to a service, whose answers are the same lines.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlencode

import msgspec
from psycopg import AsyncConnection

from secrets_broker import logging_setup
from secrets_broker.projections.paging.as_of import AsOf, as_of
from secrets_broker.projections.paging.reading_session import READ_SESSION
from secrets_broker.projections.queries.exposure import Exposed
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    load_settings,
    say,
)
from secrets_broker.tools.shared.read_only_connection import reading
from secrets_broker.tools.shared.remote import (
    NO_TLS,
    ClientTls,
    Connections,
    Remote,
    RemoteError,
    url_options,
)

F = TypeVar("F", bound=Callable[..., Any])
L = TypeVar("L", bound=msgspec.Struct)
T = TypeVar("T")

Connection = AsyncConnection[Any]

PAGE_LINES: Final = 1_000
"""As many as a service gives at once, too."""

# A page may take longer than a request's may.
_SESSION: Final = {**READ_SESSION, "statement_timeout": "60s"}


@dataclass(frozen=True, slots=True)
class QuestionTarget:
    """Where a question is put: to the settings' database, or to a service."""

    data_dir: Path | None
    url: str | None = None
    tls: ClientTls = NO_TLS


@dataclass(frozen=True, slots=True)
class Found(Generic[L]):
    """A page: its lines, where the next one begins, and what it says of all of them."""

    lines: list[L]
    following: Any = None
    exposed: Exposed | None = None
    internal_key: bool | None = None


Page = Callable[[int, Any], Awaitable[Found[L]]]
"""Takes how many lines at most, and the cursor to continue from."""
OfDatabase = Callable[[Connection, int, Any], Awaitable[Found[L]]]


@dataclass(frozen=True, slots=True)
class Question(Generic[L]):
    """A question, as a service takes it and as the database does."""

    path: str
    fields: Mapping[str, str | None]
    line: type[L]
    of_database: OfDatabase[L] = field(repr=False)


def place_options(command: F) -> F:
    """Add --data-dir, --url and what goes with it; the command gets `place`, a Place."""

    @functools.wraps(command)
    def packed(
        *args: Any, data_dir: Path | None, url: str | None, tls: ClientTls, **more: Any
    ) -> Any:
        return command(*args, place=QuestionTarget(data_dir, url, tls), **more)

    return data_dir_option(url_options(packed))  # type: ignore[return-value]  # as in tls_options


def ask(data_dir: Path | None, question: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
    """Connect with DATABASE_URL, an auditor's login being enough, ask, and say as of when."""
    logging_setup.configure(readable=True)
    with clear_errors():
        return asyncio.run(_ask(load_settings(data_dir).database_url, question))


def put(
    place: QuestionTarget, asked: Question[L], write: Callable[[Page[L]], Coroutine[Any, Any, T]]
) -> T:
    """Put a question where it is to be put; `write` gets its pages."""
    if place.url is None:

        async def of_database(connection: Connection) -> T:
            return await write(functools.partial(asked.of_database, connection))

        return ask(place.data_dir, of_database)
    logging_setup.configure(readable=True)
    with clear_errors():
        remote = Remote.of(load_settings(place.data_dir), place.url, place.tls)
        with remote.open() as connections:
            pages = _OfService(connections, asked)
            found = asyncio.run(write(pages.page))
    if pages.as_of is not None:
        say(pages.as_of.sentence)
    return found


async def write_all(
    page: Page[L], write: Callable[[list[L]], None], limit: int | None = None
) -> None:
    """Write every line, or that many; no more than a page of them is ever held."""
    following: Any = None
    while limit is None or limit > 0:
        wanted = PAGE_LINES if limit is None else min(limit, PAGE_LINES)
        found = await page(wanted, following)
        write(found.lines)
        following = found.following
        limit = None if limit is None else limit - len(found.lines)
        if following is None:
            return


class _OfService(Generic[L]):
    """Pages that a service gives."""

    def __init__(self, connections: Connections, asked: Question[L]) -> None:
        self.as_of: AsOf | None = None
        """Of the first page: what is recorded later may be missing."""
        self._connections = connections
        self._asked = asked
        items: Any = list[asked.line]  # type: ignore[name-defined]  # known when it runs
        self._kind = msgspec.defstruct(
            "Page",
            [
                ("items", items),
                ("next", str | None),
                ("as_of", AsOf | None, None),
                ("exposed", Exposed | None, None),
                ("internal_key", bool | None, None),
            ],
        )

    async def page(self, limit: int, following: Any) -> Found[L]:
        given = {**self._asked.fields, "limit": str(limit), "cursor": following}
        query = urlencode({name: text for name, text in given.items() if text is not None})
        raw = self._connections.get(f"/internal/audit/{self._asked.path}?{query}")
        try:
            page: Any = msgspec.json.decode(raw or b"", type=self._kind)
        except msgspec.DecodeError:
            raise RemoteError("this is no answer to the question: is it a broker?") from None
        self.as_of = self.as_of or page.as_of
        return Found(page.items, page.next, page.exposed, page.internal_key)


async def _ask(database_url: str, question: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
    async with reading(database_url, _SESSION) as connection:
        known = await as_of(connection)
        found = await question(connection)
    say(known.sentence)
    return found

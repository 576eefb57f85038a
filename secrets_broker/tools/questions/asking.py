"""Putting a question: page after page, each a short transaction, written as it comes."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from psycopg import AsyncConnection

from secrets_broker import logs
from secrets_broker.projections.cursor import Cursor
from secrets_broker.projections.reader import READ_SESSION
from secrets_broker.tools.common import clear_errors, load_settings
from secrets_broker.tools.reading import reading

L = TypeVar("L", bound=msgspec.Struct)
C = TypeVar("C", bound=Cursor)
T = TypeVar("T")

Connection = AsyncConnection[Any]
Page = Callable[[Connection, int, C | None], Awaitable[tuple[list[L], C | None]]]
"""Takes how many lines at most and where to go on; gives them, and where the next page begins."""

PAGE_LINES: Final = 1_000

# A page may take longer than a request's may.
_SESSION: Final = {**READ_SESSION, "statement_timeout": "60s"}


def ask(data_dir: Path | None, question: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
    """Connect with DATABASE_URL, an auditor's login being enough, and ask."""
    logs.configure(readable=True)
    with clear_errors():
        return asyncio.run(_ask(load_settings(data_dir).database_url, question))


async def write_all(
    connection: Connection,
    page: Page[C, L],
    put: Callable[[list[L]], None],
    limit: int | None = None,
) -> None:
    """Put every line, or that many; no more than a page of them is ever held."""
    following: C | None = None
    while limit is None or limit > 0:
        wanted = PAGE_LINES if limit is None else min(limit, PAGE_LINES)
        lines, following = await page(connection, wanted, following)
        put(lines)
        limit = None if limit is None else limit - len(lines)
        if following is None:
            return


async def _ask(database_url: str, question: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
    async with reading(database_url, _SESSION) as connection:
        return await question(connection)

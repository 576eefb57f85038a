"""A connection of a command that only asks the database."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.session import safe_message, with_grant


@asynccontextmanager
async def reading(
    database_url: str, session: Mapping[str, str]
) -> AsyncIterator["AsyncConnection[Any]"]:
    """Open it with these settings, and close it; raises LedgerUnavailableError, also within."""
    connection = await connect(database_url, session)
    try:
        yield connection
    except psycopg.Error as error:
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            raise LedgerUnavailableError(with_grant(error)) from None
        raise LedgerUnavailableError(
            f"the database refused the question ({safe_message(error)}); "
            "where its schema is behind, run: secrets-broker migrate"
        ) from None
    finally:
        await connection.close()

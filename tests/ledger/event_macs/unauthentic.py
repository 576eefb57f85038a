"""A writer that refuses a ledger for an event without a right MAC."""

import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import (
    UnauthenticEventError,
)
from secrets_broker.ledger.events import Context
from tests.conftest import Database
from tests.ledger.helpers import (
    run,
    writing,
)

OPERATOR = Context(actor="operator", authn="cli", reason="looked at it")


def refused_at(database: Database, keyring: Keyring) -> tuple[int, int]:
    """Where a service that starts now says that a forgery stands."""

    async def attempt() -> tuple[int, int]:
        async with writing_unready(database, keyring) as error:
            return error.first, error.last

    return run(attempt())


class writing_unready:  # noqa: N801 - used as a context manager
    """Start a writer that has to refuse the ledger."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._writing = writing(database.service_url, keyring)

    async def __aenter__(self) -> UnauthenticEventError:
        with pytest.raises(UnauthenticEventError) as raised:
            await self._writing.__aenter__()
        return raised.value

    async def __aexit__(self, *_: object) -> None:
        return None

"""A command's own transactions: under the ledger's lock, one after another, on one connection.

A service's writer takes what waits; a command decides by what it reads under the lock. Both use
the same steps, Store.read, Fold, Store.append, so what holds of one holds of the other.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg import AsyncConnection

from secrets_broker.ledger.authenticity import Span
from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.connection import SESSION
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.fold import Fold
from secrets_broker.ledger.keks import check_keys
from secrets_broker.ledger.keyring import Keyring
from secrets_broker.ledger.projection import Row
from secrets_broker.ledger.right_edge import check_contains, load_seen
from secrets_broker.ledger.seen import Seen
from secrets_broker.ledger.store import Store, TooFarBehindError
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.session import with_grant

# As a writer's: whoever freezes with the lock is cut off, and every look-up is by an index. But
# a name of a very long history has to be destroyed too, however long that takes.
_SESSION: Final = {**SESSION, "statement_timeout": "0"}


class Transactions:
    """Begins and commits; between the two the ledger's lock is held."""

    def __init__(self, store: Store, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._seen = Seen()
        self.rows: Mapping[Name, Row] = {}

    async def begin(
        self, names: Iterable[Name], set_aside: tuple[Span, ...] = (), *, begins: bool = False
    ) -> Fold:
        """Take the lock and read these names; what is asked now stays so until the end.

        `set_aside` is what is about to be disowned, `begins` whether the ledger is about to be
        authenticated. Raises LedgerUnavailableError.
        """
        self._store.authenticator.set_aside = set_aside
        self._store.authenticator.begins = begins
        wanted = list(names)
        try:
            snapshot = await self._store.read(wanted, self._seen)
        except TooFarBehindError:
            # The lock is given back first: others need not wait for this process to catch up.
            await self._store.give_up()
            await self.catch_up()
            snapshot = await self._store.read(wanted, self._seen)
        self.rows = snapshot.rows
        return Fold(snapshot, self._keyring)

    async def commit(self, fold: Fold) -> None:
        """Write and commit what the fold took."""
        await self._store.append(fold)
        self._seen = fold.append.seen()

    async def give_up(self) -> None:
        """End without writing anything."""
        await self._store.give_up()

    async def rightly_made(self, ranges: Iterable[Span]) -> list[int]:
        """The positions in these ranges whose events were made with the ledger's keys."""
        return await self._store.authenticator.rightly_made(ranges)

    async def check_around(self, ranges: Iterable[Span], size: int) -> None:
        """Check the events beside these ranges; raises UnauthenticEventError."""
        await self._store.authenticator.check_around(ranges, size)

    async def catch_up(self) -> None:
        """Read the tree's edge, outside the lock."""
        known = self._seen
        self._seen = await load_seen(self._store.connection)
        await check_contains(self._store.connection, known)

    @property
    def connection(self) -> AsyncConnection[Any]:
        """For readers that are given one."""
        return self._store.connection

    async def fetch(self, query: LiteralString, values: Mapping[str, Any]) -> list[Any]:
        """Ask something, in the transaction where one is open."""
        cursor = await self._store.connection.execute(query, values)
        return await cursor.fetchall()


@asynccontextmanager
async def transactions(owner_url: str, keyring: Keyring) -> AsyncIterator[Transactions]:
    """Connect as the owner of the schemas; raises LedgerUnavailableError.

    An error ends the connection, and with it what is not committed.
    """
    store = await Store.connect(owner_url, HostCredentials(), keyring, _SESSION)
    try:
        await check_keys(store.connection, keyring)
        work = Transactions(store, keyring)
        await work.catch_up()
        yield work
    except psycopg.Error as error:
        raise refused(error) from None
    finally:
        await store.close()


def refused(error: psycopg.Error) -> LedgerUnavailableError:
    """The same in the ledger's words."""
    return LedgerUnavailableError(f"the database refused or broke off: {with_grant(error)}")

"""An operation's own transactions: under the ledger's lock, one after another, on one connection.

A service's writer takes what waits; an operation decides by what it reads under the lock. Both use
Store.read, Fold and Store.append, so both give the same guarantees:

    async with login.transactions() as work:
        fold = await work.begin(names)      # the lock is held from here on
        fold.take(command, context)
        await work.commit(fold)             # or give_up
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

import psycopg
from psycopg import AsyncConnection

from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.database.ledger_session import SESSION
from secrets_broker.ledger.database.round_trip import Statement
from secrets_broker.ledger.encryption.keks import check_keys
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.event_macs.acceptance import Span
from secrets_broker.ledger.fold import Fold
from secrets_broker.ledger.projection_protocol import Projection, Row
from secrets_broker.ledger.store import Store
from secrets_broker.ledger.transparency_log.frontier import load_tree_state
from secrets_broker.ledger.tree_state import TreeState
from secrets_broker.session import with_grant

# As a writer's: the server cuts off a process that freezes with the lock, and every look-up uses an
# index. Only the statement timeout is off: erasing a name with a very long history takes its time.
_SESSION: Final = {**SESSION, "statement_timeout": "0"}


class Transactions:
    """Begins and commits transactions; in between it holds the ledger's lock."""

    def __init__(self, store: Store, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._tree_state: TreeState | None = None
        self.rows: Mapping[Name, Row] = {}

    async def begin(
        self, names: Iterable[Name], set_aside: tuple[Span, ...] = (), *, begins: bool = False
    ) -> Fold:
        """Take the lock and read these names; nothing changes until the transaction ends.

        `set_aside` are the positions about to be disowned. `begins` tells whether the ledger is
        about to be authenticated. Raises LedgerUnavailableError.
        """
        self._store.authenticator.set_aside = set_aside
        self._store.authenticator.begins = begins
        if self._tree_state is None:  # outside the lock, since a long ledger takes a while
            self._tree_state = await load_tree_state(self._store.connection)
        snapshot = await self._store.read(names, self._tree_state)
        self.rows = snapshot.rows
        return Fold(snapshot, self._keyring)

    async def commit(self, fold: Fold, *also: Statement) -> None:
        """Write and commit what the fold took; `also` runs before COMMIT."""
        await self._store.append(fold, *also)
        self._tree_state = fold.append.tree_state()

    async def give_up(self) -> None:
        """End without writing anything."""
        await self._store.give_up()

    async def rightly_made(self, ranges: Iterable[Span]) -> list[int]:
        """The positions in these ranges whose events were made with the ledger's keys."""
        return await self._store.authenticator.rightly_made(ranges)

    async def check_around(self, ranges: Iterable[Span], size: int) -> None:
        """Check the events beside these ranges; raises UnauthenticEventError."""
        await self._store.authenticator.check_around(ranges, size)

    @property
    def connection(self) -> AsyncConnection[Any]:
        """For readers that need a connection."""
        return self._store.connection

    async def fetch(self, query: LiteralString, values: Mapping[str, Any]) -> list[Any]:
        """Run a query, in the open transaction if there is one."""
        cursor = await self._store.connection.execute(query, values)
        return await cursor.fetchall()


@dataclass(frozen=True, slots=True)
class Login:
    """What an operation writes with: a database login, the keys, and the projection to update."""

    url: str = field(repr=False)  # it may hold a password
    keyring: Keyring
    projection: Projection

    @asynccontextmanager
    async def transactions(self) -> AsyncIterator[Transactions]:
        """Connect; raises LedgerUnavailableError, or its WrongKeyError.

        An error closes the connection, and rolls back what is not committed.
        """
        store = await Store.connect(self.url, self.projection, self.keyring, _SESSION)
        try:
            await check_keys(store.connection, self.keyring)
            yield Transactions(store, self.keyring)
        except psycopg.Error as error:
            raise refused(error) from None
        finally:
            await store.close()


def refused(error: psycopg.Error) -> LedgerUnavailableError:
    """The database's error as an error of the ledger."""
    return LedgerUnavailableError(f"the database refused or broke off: {with_grant(error)}")

"""Asking as an auditor does, page by page, and lives of credentials that are known beforehand."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hypothesis import strategies as st
from psycopg import AsyncConnection

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.fold import Outcome
from secrets_broker.projections.paging.cursor import Cursor
from secrets_broker.projections.paging.reading_session import Reader
from secrets_broker.tools.postgres import Cluster
from tests.conftest import Database
from tests.ledger.helpers import delete, lookup, record, run, upsert
from tests.projections.keys import erased, rekeyed

T = TypeVar("T")
L = TypeVar("L")
C = TypeVar("C", bound=Cursor)
Connection = AsyncConnection[Any]

AUDITOR_LOGIN = "auditor_login"


def auditor(cluster: Cluster, database: Database) -> str:
    """The URL of a login that is nothing but an auditor's."""
    cluster.ensure_login(AUDITOR_LOGIN, member_of="secrets_broker_auditor")
    return cluster.url(AUDITOR_LOGIN, database.name)


def answer(url: str, question: Callable[[Connection], Awaitable[T]]) -> T:
    """Put one question."""

    async def ask() -> T:
        reader = Reader(url)
        try:
            return await reader.ask(question)
        finally:
            await reader.close()

    return run(ask())


def pages(
    url: str, page: Callable[[Connection, C | None], Awaitable[tuple[list[L], C | None]]]
) -> list[list[L]]:
    """Every page, each cursor on its way through its text."""

    async def ask(connection: Connection) -> list[list[L]]:
        found, following = await page(connection, None)
        all_of_them = [found]
        while following is not None:
            found, following = await page(connection, type(following).decode(following.encode()))
            all_of_them.append(found)
        return all_of_them

    return answer(url, ask)


@dataclass(frozen=True, slots=True)
class Known:
    """What a version's life is expected to be."""

    credential_id: int
    version: int
    position: int
    ended: tuple[str, int] | None = None
    rekeys: int = 0
    erased: int | None = None
    receipts: tuple[int, ...] = ()


@dataclass(slots=True)
class Life:
    """A name, and by what was done to it what is expected of it."""

    host: str
    versions: list[Known] = field(default_factory=list)

    @property
    def live(self) -> Known | None:
        """The version that a lookup finds."""
        return self.versions[-1] if self.versions and not self.versions[-1].ended else None

    def do(self, database: Database, keyring: Keyring, step: str) -> None:
        """Do it, and keep what follows from it."""
        match step:
            case "upsert":
                self._stored(record(database, keyring, upsert(self.host))[0].position)
            case "lookup":
                self._read(record(database, keyring, lookup(self.host))[0])
            case "delete":
                self._end("credential.deleted", record(database, keyring, delete(self.host))[0])
            case "rekey":
                rekeyed(database, keyring, self.host)
                if live := self.live:
                    self.versions[-1] = replace(live, rekeys=live.rekeys + 1)
            case "erase":
                self._erased(erased(database, keyring, self.host)[0])

    def _stored(self, position: int) -> None:
        live = self.live
        if live is None:
            self.versions.append(Known(position + 1, 1, position))
            return
        self.versions[-1] = replace(live, ended=("credential.updated", position))
        self.versions.append(Known(live.credential_id, live.version + 1, position))

    def _read(self, outcome: Outcome) -> None:
        if live := self.live:
            self.versions[-1] = replace(live, receipts=(*live.receipts, outcome.position))

    def _end(self, how: str, outcome: Outcome) -> None:
        if live := self.live:
            self.versions[-1] = replace(live, ended=(how, outcome.position))

    def _erased(self, result: Any) -> None:
        if result is None:
            return
        (position,) = result.positions
        if live := self.live:
            self.versions[-1] = replace(live, ended=("credential.erased", position))
        self.versions = [
            one if one.erased is not None else replace(one, erased=position)
            for one in self.versions
        ]


STEPS = ("upsert", "lookup", "delete", "rekey", "erase")
steps = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.sampled_from([*STEPS, "upsert", "lookup"])), max_size=10
)


def lived(database: Database, keyring: Keyring, done: list[tuple[int, str]]) -> list[Life]:
    """Two names that nobody had before, and what was done to them."""
    ((size,),) = database.fetch("SELECT count(*) FROM ledger.events")
    ((count,),) = database.fetch("SELECT count(DISTINCT host) FROM ledger.events")
    lives = [Life(f"{name}-{size}-{count}.example") for name in "ab"]
    for which, step in done:
        lives[which].do(database, keyring, step)
    return lives

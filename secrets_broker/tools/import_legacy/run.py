"""The import itself: every row that is not in the ledger yet goes through the one write path.

The old id in an event's details says what was imported already. So a killed import continues where
it was when it is run again, and no row is imported twice. The old tables are only read.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic

from secrets_broker.ledger.credential import ALREADY_THERE
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import InvalidCommandError, LedgerError
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.tools.import_legacy.legacy_rows import ACCESS, CREDENTIALS, LegacyTable, R
from secrets_broker.tools.import_legacy.legacy_tables import ImportRefusedError, LegacyTables
from secrets_broker.tools.import_legacy.rows import (
    Request,
    RowError,
    access_request,
    credential_request,
)

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""Is told a table's name, how many of its rows are done, and how many there are."""

# PostgreSQL notices within moments that an import was killed, and lets the next one in.
WAIT_SECONDS: Final = 10.0
_BEFORE_ALL: Final = -(2**63)


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that was not imported, and why; never with a secret value."""

    table: str
    legacy_id: int
    host: str
    purpose: str
    why: str


@dataclass(frozen=True, slots=True)
class TableTally:
    """What became of a table's rows."""

    there: bool = False
    imported: int = 0
    already_imported: int = 0
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import came to."""

    credentials: TableTally
    access_lines: TableTally

    @property
    def failures(self) -> tuple[Failure, ...]:
        """All rows that were not imported."""
        return self.credentials.failures + self.access_lines.failures


async def import_legacy(
    owner_url: str,
    service_url: str,
    keyring: Keyring,
    *,
    say: Say = lambda _: None,
    progress: Progress = lambda *_: None,
    wait_seconds: float = WAIT_SECONDS,
) -> ImportReport:
    """Import what is not imported yet.

    Raises ImportRefusedError where it cannot begin or read on, and LedgerError where the ledger
    could not be written; what was imported until then stays, and the next import continues there.
    """
    opening = asyncio.to_thread(LegacyTables.open, owner_url, service_url, wait_seconds)
    with closing(await opening) as tables:
        if not (tables.has(CREDENTIALS) or tables.has(ACCESS)):
            say("nothing to import: no tables of an earlier installation were set aside")
            return ImportReport(TableTally(), TableTally())
        async with _writing(service_url, keyring) as writer:
            # First the credentials: the access log points at them.
            credentials = partial(credential_request, keks=tuple(keyring))
            return ImportReport(
                await _Import(tables, CREDENTIALS, credentials, writer, progress).run(),
                await _Import(tables, ACCESS, access_request, writer, progress).run(),
            )


@asynccontextmanager
async def _writing(service_url: str, keyring: Keyring) -> AsyncIterator[Writer]:
    writer = Writer(service_url, keyring, HostCredentials())
    try:
        try:
            # What a killed import had handed over may be committed only now, and holds the
            # ledger's lock until then. The start's probe waits for that lock, so whatever is
            # read after it sees all that the killed one did.
            await writer.start()
        except LedgerError as error:
            raise ImportRefusedError(str(error)) from None
        yield writer
    finally:
        await writer.close()


@dataclass(frozen=True, slots=True)
class _Import(Generic[R]):
    tables: LegacyTables
    table: LegacyTable[R]
    request: Callable[[R], Request]
    writer: Writer
    progress: Progress

    async def run(self) -> TableTally:
        if not self.tables.has(self.table):
            return TableTally()
        total, counts, last = self.tables.count(self.table), TableTally(there=True), _BEFORE_ALL
        while rows := await asyncio.to_thread(self.tables.chunk, self.table, last):
            last = rows[-1].id
            new = [row for row in rows if not row.imported]
            results = await asyncio.gather(*map(self._take, new))
            failures = tuple(failure for failure in results if failure)
            counts = TableTally(
                there=True,
                imported=counts.imported + len(new) - len(failures),
                already_imported=counts.already_imported + len(rows) - len(new),
                failures=counts.failures + failures,
            )
            done = counts.imported + counts.already_imported + len(counts.failures)
            self.progress(self.table.name, done, total)
        return counts

    async def _take(self, row: R) -> Failure | None:
        try:
            outcome = await self.writer.submit(*self.request(row))
        except (RowError, InvalidCommandError) as error:
            return self._failure(row, str(error))
        if outcome.error == ALREADY_THERE:
            return self._failure(row, "a credential of this name is here already: it stays")
        return None  # a line about a failed access is imported, too

    def _failure(self, row: R, why: str) -> Failure:
        return Failure(self.table.name, row.id, row.host, row.purpose, why)

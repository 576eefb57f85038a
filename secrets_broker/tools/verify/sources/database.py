"""A ledger in PostgreSQL: what is read but once, and what lies beside the events."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final

from secrets_broker.tools.verify.checks.checkpoints import KeptCheckpoint
from secrets_broker.tools.verify.checks.findings import Violation
from secrets_broker.tools.verify.checks.subtree import RANGE, Hash
from secrets_broker.tools.verify.sources import statements
from secrets_broker.tools.verify.sources.database_reader import DatabaseAddress, DatabaseReader
from secrets_broker.tools.verify.sources.source_protocol import Overview

MAX_HOLES: Final = 50_000
"""How many missing events are told one by one."""
_MAX_GAPS: Final = 100


class DatabaseSource(DatabaseReader):
    """Gives all that the login may read."""

    name = "database"

    def __init__(self, url: str) -> None:
        super().__init__(url, bodies=True)
        self._url = url
        self.may_read_keys = self.may_read_rows = self.is_standby = False
        # Of this moment: what is published while the ledger is read is left to the next time.
        self._largest: dict[str, int] = {}
        try:
            self._check_rights()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> DatabaseAddress:
        """See Source."""
        return DatabaseAddress(self._url, self._with_bodies)

    def _check_rights(self) -> None:
        ((bodies, keys, rows),) = self.fetch(statements.READABLE)
        self._with_bodies, self.may_read_keys, self.may_read_rows = bodies, keys, rows

    @property
    def may_read_bodies(self) -> bool:
        """Whether this login may."""
        return self._with_bodies

    def overview(self) -> Overview:
        """The size at this moment, and what lies beyond it; see Source."""
        return self._run(self._overview())

    def checkpoints(self, low: int, high: int) -> Sequence[KeptCheckpoint]:
        """See Source."""
        known = self._largest
        rows = self.fetch(statements.CHECKPOINTS, list(known), list(known.values()), low, high)
        return [
            KeptCheckpoint(origin, size, note, root, cosignatures)
            for origin, size, root, note, cosignatures in rows
        ]

    def node(self, level: int, index: int) -> Hash:
        """See Source."""
        rows = self.fetch(statements.NODES, level, index, index + 1)
        return rows[0][1] if rows else None

    async def _overview(self) -> Overview:
        async with self._connection.transaction():
            # One snapshot, so that size, checkpoints and nodes are of the same moment.
            await self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            ((last, first, count, in_recovery),) = await self._fetch(statements.SIZE)
            gaps = await self._gaps(max(last, -1) + 1 - count)
            size = gaps[0][0] + 1 if gaps else max(last, -1) + 1
            published = await self._fetch(statements.PUBLISHED)
            self._largest = dict(await self._fetch(statements.ORIGINS))
            ((astray,),) = await self._fetch(statements.COSIGNATURES_ASTRAY)
            problems = [problem async for problem in self._beyond(size)]
        problems += _lost(gaps)
        if first < 0:
            problems.append(Violation(first, "position", "there are events before position 0"))
        if astray:
            detail = f"{astray} cosignatures are of no checkpoint, or of another key than they say"
            problems.append(Violation(None, "signature", detail))
        if len(published) != 1 or published[0][1] is None:
            detail = "ledger.published has not one row with a size"
            problems.append(Violation(None, "checkpoint", detail))
        found = Overview(size, None, problems=problems)
        if gaps:
            found.not_checked.append(f"the events from position {gaps[0][1]} on, far behind a gap")
        found.not_checked += self._not_readable()
        largest = self._largest.items()
        found.beyond = [KeptCheckpoint(origin, most, "") for origin, most in largest if most > size]
        if published and None not in published[0]:
            found.published = published[0]
        self.is_standby = in_recovery
        if in_recovery:
            found.remarks.append("this is a standby: the primary may have more")
        return found

    async def _gaps(self, holes: int) -> list[tuple[int, int]]:
        """Gaps so wide that what is behind them is no part of the ledger.

        Each is the last position before it, and the first behind it. A few holes are gone through,
        so that all that is around them is checked.
        """
        if holes <= MAX_HOLES:
            return []
        return await self._fetch(statements.GAPS, RANGE, _MAX_GAPS)

    def _not_readable(self) -> Iterable[str]:
        if not self._with_bodies:
            yield "bodies: this login may not read ledger.bodies"
        if not self.may_read_keys:
            yield "whether erased data keys are gone: this login may not read ledger.data_keys"
        if not self.may_read_rows:
            yield "host_credentials: this login may not read it"

    async def _beyond(self, size: int) -> AsyncIterator[Violation]:
        for level, index in await self._fetch(statements.NODES_BEYOND, size):
            detail = f"node ({level}, {index}) covers events that are not there"
            yield Violation(size, "node", detail)
        if self._with_bodies:
            ((count,),) = await self._fetch(statements.BODIES_BEYOND, size)
            if count:
                yield Violation(size, "body", f"{count} bodies are of events that are not there")


def _lost(gaps: Sequence[tuple[int, int]]) -> Iterator[Violation]:
    for number, (before, behind) in enumerate(gaps):
        if number == 0:
            detail = f"there is no event from here to position {behind - 1}"
            yield Violation(before + 1, "missing", detail)
        detail = f"there is an event, and none from position {before + 1} to it"
        yield Violation(behind, "position", detail)

"""The tally: refusals that are only counted, and the events that tell of them.

Nobody whose refusal is only counted is answered before it is durable that counting began; when a
window is over, its count is an event. flood.py says which refusals those are.
"""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from secrets_broker.http.auth.throttle import Throttle, Window
from secrets_broker.ledger.access.judgement import UNKNOWN
from secrets_broker.ledger.commands import Record
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.event_types import ACCESS_COUNTED, ACCESS_COUNTING
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.scheduling.background import BackgroundTask
from secrets_broker.ledger.scheduling.network_source import Source, source_of
from secrets_broker.ledger.writer import Writer

_TELL_EACH_SECONDS: Final = 1.0
READ_EACH_SECONDS: Final = 0.05
"""How far apart the readings of the grants are that callers bring about whom nobody knows."""


class CountedRefusals:
    """Counts in this process, and tells the ledger."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._flood = Throttle()
        self._openings: dict[int, asyncio.Task[None]] = {}
        self._untold: list[Window] = []
        self._task = BackgroundTask("tally", self._run)
        self._reading: asyncio.Task[LedgerUnavailableError | None] | None = None
        self._read_at = -READ_EACH_SECONDS

    async def start(self) -> None:
        """Begin to tell of floods that are over."""
        self._task.start()

    async def close(self) -> None:
        """Tell of all that was counted; the writer has to be there still."""
        await self._task.close(within=None)
        self._untold += self._flood.windows.values()
        self._flood.windows.clear()
        await self._tell()

    def window(self, context: Context) -> Window | None:
        """Where a refusal of this caller is counted; None where it is to be an event."""
        return self._flood.window(source_of(context.ip), time.monotonic())

    def window_of(self, context: Context) -> Window:
        """The same, for one that cannot be an event now."""
        return self._flood.open(source_of(context.ip), time.monotonic())

    async def count(self, window: Window, times: int = 1) -> None:
        """Count refusals; comes back once it is durable that they are counted."""
        window.add(time.monotonic(), datetime.now(UTC), times)
        # At once where it is known that it cannot be made durable now.
        if window.position is not None or window.late:
            return
        opening = self._openings.get(id(window))
        if opening is None:
            opening = asyncio.create_task(self._open(window))
            self._openings[id(window)] = opening
        await asyncio.shield(opening)

    async def read_grants(self) -> None:
        """Have the grants read anew; one reading is for all who asked before it began.

        Raises LedgerUnavailableError.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_grants())
        error = await asyncio.shield(self._reading)
        if error is not None:
            raise error.again()

    async def _read_grants(self) -> LedgerUnavailableError | None:
        # So whoever makes keys up costs the ledger a bounded share of its lock, however many come.
        await asyncio.sleep(self._read_at + READ_EACH_SECONDS - time.monotonic())
        self._read_at, self._reading = time.monotonic(), None
        try:
            await self._writer.probe()
        except LedgerUnavailableError as error:
            return error
        return None

    async def _open(self, window: Window) -> None:
        # Died before the commit: nobody whose refusal is only counted was answered. Died after
        # it: the event stands without its count, which says that the count is not known.
        try:
            window.position = await self._record(ACCESS_COUNTING, source=window.source)
        except LedgerUnavailableError:
            window.late = True
        finally:
            del self._openings[id(window)]

    async def _run(self) -> None:
        closing = False
        while not closing:
            closing = await self._task.pause(_TELL_EACH_SECONDS)
            if self._flood.windows:
                await self._look_again()
            self._untold += self._flood.over(time.monotonic())
            await self._tell()

    async def _look_again(self) -> None:
        """Read the grants: while refusals are only counted, nobody else may have it done."""
        with suppress(LedgerUnavailableError):
            await self._writer.probe()

    async def _tell(self) -> None:
        """Give the counts; what cannot be recorded now is tried again."""
        while self._untold:
            window = self._untold[0]
            try:
                if window.position is None:
                    window.position = await self._record(ACCESS_COUNTING, source=window.source)
                # Died before: the count is lost, and the record says that there was one. Died
                # after: it is told.
                await self._record(
                    ACCESS_COUNTED,
                    counting=window.position,
                    source=window.source,
                    count=window.count,
                    first_at=rfc3339(window.first_at) if window.first_at else None,
                    last_at=rfc3339(window.last_at) if window.last_at else None,
                )
            except LedgerUnavailableError:
                return
            self._untold.pop(0)

    async def _record(self, kind: str, source: Source, **details: Any) -> int:
        command = Record(type=kind, details={"source": source, **details})
        single = source is not None and "/" not in source
        context = Context(actor=None, authn=UNKNOWN, ip=source if single else None)
        return (await self._writer.note(command, context)).position

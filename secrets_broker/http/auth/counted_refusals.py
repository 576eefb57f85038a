"""Counted refusals: those without an event of their own, and the events that tell how many.

A refusal that is only counted is answered once the event that counting began is durable. When a
window is over, its count becomes an event. `throttle` says which refusals are only counted.
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

_RECORD_EACH_SECONDS: Final = 1.0
READ_EACH_SECONDS: Final = 0.05
"""The least time between two readings of the grants that unknown callers cause."""


class CountedRefusals:
    """Counts in this process, and records the counts in the ledger."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._throttle = Throttle()
        self._openings: dict[int, asyncio.Task[None]] = {}
        self._unrecorded: list[Window] = []
        self._task = BackgroundTask("counted_refusals", self._run)
        self._reading: asyncio.Task[LedgerUnavailableError | None] | None = None
        self._read_at = -READ_EACH_SECONDS

    async def start(self) -> None:
        """Begin to record the counts of windows that are over."""
        self._task.start()

    async def close(self) -> None:
        """Record all counts; the writer must still be running."""
        await self._task.close(within=None)
        self._unrecorded += self._throttle.windows.values()
        self._throttle.windows.clear()
        await self._record_counts()

    def window(self, context: Context) -> Window | None:
        """The window that counts a refusal of this caller; None where it is to be an event."""
        return self._throttle.window(source_of(context.ip), time.monotonic())

    def window_of(self, context: Context) -> Window:
        """The same, for a refusal that cannot be an event now."""
        return self._throttle.open(source_of(context.ip), time.monotonic())

    async def count(self, window: Window, times: int = 1) -> None:
        """Count refusals; returns once the event that counting began is durable."""
        window.add(time.monotonic(), datetime.now(UTC), times)
        # Return at once where that event could not be recorded.
        if window.position is not None or window.late:
            return
        opening = self._openings.get(id(window))
        if opening is None:
            opening = asyncio.create_task(self._open(window))
            self._openings[id(window)] = opening
        await asyncio.shield(opening)

    async def read_grants(self) -> None:
        """Read the grants again; one reading serves all callers that asked before it began.

        Raises LedgerUnavailableError.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_grants())
        error = await asyncio.shield(self._reading)
        if error is not None:
            raise error.again()

    async def _read_grants(self) -> LedgerUnavailableError | None:
        # So made-up keys cost the ledger a bounded share of its lock, however many are sent.
        await asyncio.sleep(self._read_at + READ_EACH_SECONDS - time.monotonic())
        self._read_at, self._reading = time.monotonic(), None
        try:
            await self._writer.probe()
        except LedgerUnavailableError as error:
            return error
        return None

    async def _open(self, window: Window) -> None:
        # Died before the commit: no counted refusal was answered. Died after it: the event stands
        # without its count, which says that the count is not known.
        try:
            window.position = await self._record(ACCESS_COUNTING, source=window.source)
        except LedgerUnavailableError:
            window.late = True
        finally:
            del self._openings[id(window)]

    async def _run(self) -> None:
        closing = False
        while not closing:
            closing = await self._task.pause(_RECORD_EACH_SECONDS)
            if self._throttle.windows:
                await self._read_grants_for_counted()
            self._unrecorded += self._throttle.over(time.monotonic())
            await self._record_counts()

    async def _read_grants_for_counted(self) -> None:
        """Read the grants again: counted refusals cause no reading themselves."""
        with suppress(LedgerUnavailableError):
            await self._writer.probe()

    async def _record_counts(self) -> None:
        """Record the counts; one that cannot be recorded now is tried again later."""
        while self._unrecorded:
            window = self._unrecorded[0]
            try:
                if window.position is None:
                    window.position = await self._record(ACCESS_COUNTING, source=window.source)
                # Died before: the count is lost, and the record says that there was one. Died
                # after: the count stands.
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
            self._unrecorded.pop(0)

    async def _record(self, kind: str, source: Source, **details: Any) -> int:
        command = Record(type=kind, details={"source": source, **details})
        single = source is not None and "/" not in source
        context = Context(actor=None, authn=UNKNOWN, ip=source if single else None)
        return (await self._writer.note(command, context)).position

"""The desk: judges who asks before the writer is bothered, and records who was refused.

What counts is the judgement under the ledger's lock, in the transaction of the event. The one
here is by the grants as this process last read them: it keeps a refused caller from costing more
than a comparison, and a caller whom it would refuse is judged under the lock all the same as long
as his refusal is an event of its own. While refusals are only counted, the grants are read again
each second, so that a grant of a moment ago opens even from where a flood comes.
"""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from secrets_broker.http.flood import Flood, Window
from secrets_broker.ledger.access import Enter
from secrets_broker.ledger.commands import Command, Record
from secrets_broker.ledger.denial import UNKNOWN, asked
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.events import ACCESS_COUNTED, ACCESS_COUNTING, Context, Subject
from secrets_broker.ledger.fold import Outcome
from secrets_broker.ledger.grants import Granted
from secrets_broker.ledger.quota import judge
from secrets_broker.ledger.rights import Refusal
from secrets_broker.ledger.source import Source, source_of
from secrets_broker.ledger.writer import Writer

_TELL_EACH_SECONDS: Final = 1.0


class RefusedError(Exception):
    """The caller is not allowed what he asks for."""

    def __init__(self, refusal: Refusal, position: int | None = None) -> None:
        super().__init__(refusal.rule)
        self.refusal = refusal
        self.position = position
        """Of its event; None where it was only counted."""


class Desk:
    """Takes commands to the writer, for those who may give them."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._flood = Flood()
        self._openings: dict[int, asyncio.Task[None]] = {}
        self._untold: list[Window] = []
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to tell of floods that are over."""
        self._task = asyncio.create_task(self._run(), name="desk")

    async def close(self) -> None:
        """Tell of all that was counted; the writer has to be there still."""
        self._closing.set()
        if self._task:
            await self._task
        self._untold += self._flood.windows.values()
        self._flood.windows.clear()
        await self._tell()

    async def enter(self, operation: str, context: Context) -> None:
        """Let a caller in to an operation; raises RefusedError.

        Who may enter is judged again, with what he asks for.
        """
        command = Enter(operation=operation)
        early = self._early(command, context)
        if early:
            await self._refuse(command, context, early)

    async def leave(self, operation: str, context: Context) -> None:
        """Judge under the lock, once an answer is there and before it goes out.

        Raises RefusedError: nothing is given out by a grant that ended before.
        """
        outcome = await self._writer.enter(Enter(operation=operation), context)
        if outcome and outcome.refusal:
            raise RefusedError(outcome.refusal, outcome.position)

    async def submit(self, command: Command, context: Context) -> Outcome:
        """Record a command; raises RefusedError, and what the writer raises."""
        early = self._early(command, context)
        if early:
            outcome = await self._refuse(command, context, early)
        else:
            outcome = await self._writer.submit(command, context)
        assert outcome is not None  # noqa: S101 - only who enters has none
        if outcome.refusal:
            raise RefusedError(outcome.refusal, outcome.position)
        return outcome

    def granted(self, subject: Subject | None) -> Granted | None:
        """The grant of what was presented, as this process last read them."""
        return self._writer.grants.of(subject) if subject else None

    def _early(self, command: Command | Enter, context: Context) -> Refusal | None:
        if context.subject is None:
            return None
        request = asked(command, context, datetime.now(UTC))
        return judge(self._writer.grants, self._writer.meters, context.subject, request)

    async def _refuse(
        self, command: Command | Enter, context: Context, early: Refusal
    ) -> Outcome | None:
        """Record the refusal, or count it; comes back where there is an outcome."""
        now, source = time.monotonic(), source_of(context.ip)
        window = self._flood.window(source, now)
        if window is None:
            try:
                return await self._judged(command, context)
            except LedgerUnavailableError:
                # He is refused all the same, and it is told of once the ledger is back.
                window = self._flood.open(source, now)
        window.add(now, datetime.now(UTC))
        await self._opened(window)
        raise RefusedError(early)

    async def _judged(self, command: Command | Enter, context: Context) -> Outcome | None:
        if not isinstance(command, Enter):
            return await self._writer.submit(command, context)
        outcome = await self._writer.enter(command, context)
        if outcome and outcome.refusal:
            raise RefusedError(outcome.refusal, outcome.position)
        return None

    async def _opened(self, window: Window) -> None:
        """Wait until it is durable that refusals are counted; at once where it is known not to."""
        if window.position is not None or window.late:
            return
        opening = self._openings.get(id(window))
        if opening is None:
            opening = asyncio.create_task(self._open(window))
            self._openings[id(window)] = opening
        await asyncio.shield(opening)

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
        while not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _TELL_EACH_SECONDS)
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
        return (await self._writer.submit(command, context)).position

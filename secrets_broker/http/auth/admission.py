"""Admission: lets a caller in to an operation, or records that it was refused.

The judgement that counts is made under the ledger's lock, in the transaction of the event. The
early judgement here uses the grants as this process last read them, and costs one comparison. A
caller that it would refuse is still judged under the lock, as long as its refusal is an event.
While refusals are only counted, the grants are read again each second, so a new grant takes effect
even for a source whose refusals are counted. No caller is refused because this process has not
read its grant yet: an unknown key or certificate causes one reading, shared by all that wait.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from secrets_broker.http.auth.counted_refusals import CountedRefusals
from secrets_broker.http.auth.throttle import Window
from secrets_broker.ledger.access.grant_commands import Enter
from secrets_broker.ledger.access.grants import Granted, authn
from secrets_broker.ledger.access.judgement import judge
from secrets_broker.ledger.access.rights import Refusal, Request
from secrets_broker.ledger.commands import Command
from secrets_broker.ledger.errors import InvalidCommandError, LedgerUnavailableError
from secrets_broker.ledger.events import Context, Subject
from secrets_broker.ledger.fold import Outcome
from secrets_broker.ledger.scheduling.time_slice import TimeSlice
from secrets_broker.ledger.writer import Writer


class RefusedError(Exception):
    """The caller may not do what it asks for."""

    def __init__(self, refusal: Refusal, position: int | None = None) -> None:
        super().__init__(refusal.rule)
        self.refusal = refusal
        self.position = position
        """Of the refusal's event; None where it was only counted."""


Result = Outcome | RefusedError | InvalidCommandError
"""The result of one of several commands."""


class Admission:
    """Passes commands on to the writer, for callers that may give them."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._counted_refusals = CountedRefusals(writer)

    async def start(self) -> None:
        """Begin to record the counts of windows that are over."""
        await self._counted_refusals.start()

    async def close(self) -> None:
        """Record all counts; the writer must still be running."""
        await self._counted_refusals.close()

    async def enter(self, operation: str, context: Context, *, names: bool = False) -> None:
        """Let a caller in to an operation; raises RefusedError.

        A caller that is let in is judged again with what it asks for: with each credential's name
        where the operation `names` any.
        """
        await self._read_if_unknown(context.subject)
        command = Enter(operation=operation, names=names)
        early = self._early(command, context)
        if early:
            await self._refuse(command, context, early)

    async def recheck(self, operation: str, context: Context) -> None:
        """Judge under the lock, when the answer is ready and before it is sent.

        Raises RefusedError: no answer is sent for a grant that has ended.
        """
        if context.subject is None:
            return
        outcome = await self._writer.enter(Enter(operation=operation), context)
        if outcome and outcome.refusal:
            raise RefusedError(outcome.refusal, outcome.position)

    async def submit(self, command: Command, context: Context) -> Outcome:
        """Record a command; raises RefusedError, and what the writer raises."""
        await self._read_if_unknown(context.subject)
        early = self._early(command, context)
        if early:
            outcome = await self._refuse(command, context, early)
        else:
            outcome = await self._writer.submit(command, context)
        assert outcome is not None  # noqa: S101 - only Enter has none
        if outcome.refusal:
            raise RefusedError(outcome.refusal, outcome.position)
        return outcome

    async def submit_all(self, commands: Sequence[Command], context: Context) -> list[Result]:
        """Record up to MAX_BATCH commands, in order and in one commit; each has a result.

        Raises LedgerUnavailableError where a command that may be allowed cannot be recorded.
        """
        await self._read_if_unknown(context.subject)
        early, time_slice = [], TimeSlice()
        for command in commands:
            early.append(self._early(command, context))
            await time_slice.yield_if_over()
        windows = [self._counted_refusals.window(context) if refusal else None for refusal in early]
        recorded = [number for number, window in enumerate(windows) if window is None]
        results: dict[int, Result] = {}
        try:
            if recorded:
                told = await self._writer.submit_all([commands[n] for n in recorded], context)
                results.update(zip(recorded, map(_result, told), strict=True))
        except LedgerUnavailableError:
            # Refused commands stay refused; their count is recorded once the ledger is back.
            windows = [
                self._counted_refusals.window_of(context) if refusal else None for refusal in early
            ]
            if not all(early):
                raise
        finally:
            await self._count(windows)
        for number, refusal in enumerate(early):
            if refusal is not None and windows[number] is not None:
                results[number] = RefusedError(refusal)
        return [results[number] for number in range(len(commands))]

    async def malformed(self, operation: str, context: Context, times: int) -> None:
        """Count malformed requests or items against the rate of the caller's grant.

        They are no events. Raises RefusedError where the rate is used up; that refusal is only
        counted. Raises LedgerUnavailableError where the use so far is not known.
        """
        granted, now = self.granted(context.subject), datetime.now(UTC)
        if context.subject is None or granted is None or not _has_rate(granted):
            return
        if granted.id not in self._writer.meters.by_id:
            await self._writer.enter(Enter(operation=operation), context)  # its meter begins
        asked_for = Request(operation, now, host="")
        refusal = self._writer.meters.judge(granted, asked_for)
        if refusal is None:
            self._writer.meters.note(granted.id, now, times)
            return
        await self._counted_refusals.count(self._counted_refusals.window_of(context), times)
        raise RefusedError(replace(refusal, authn=authn(granted, context.subject)))

    def granted(self, subject: Subject | None) -> Granted | None:
        """The grant of the presented key or certificate, as this process last read the grants."""
        return self._writer.grants.of(subject) if subject else None

    async def _read_if_unknown(self, subject: Subject | None) -> None:
        """Read the grants where this process knows none for the presented key or certificate.

        Raises LedgerUnavailableError where they cannot be read.
        """
        if subject is None or subject.problem or not subject.well_formed:
            return
        if self.granted(subject) is None:
            await self._counted_refusals.read_grants()

    def _early(self, command: Command | Enter, context: Context) -> Refusal | None:
        grants, meters = self._writer.grants, self._writer.meters
        return judge(grants, meters, command, context, datetime.now(UTC))

    async def _refuse(
        self, command: Command | Enter, context: Context, early: Refusal
    ) -> Outcome | None:
        """Judge under the lock and return the outcome, or count it and raise RefusedError."""
        window = self._counted_refusals.window(context)
        if window is None:
            try:
                return await self._judged(command, context)
            except LedgerUnavailableError:
                # The caller stays refused; the count is recorded once the ledger is back.
                window = self._counted_refusals.window_of(context)
        await self._counted_refusals.count(window)
        raise RefusedError(early)

    async def _judged(self, command: Command | Enter, context: Context) -> Outcome | None:
        if not isinstance(command, Enter):
            return await self._writer.submit(command, context)
        outcome = await self._writer.enter(command, context)
        if outcome and outcome.refusal:
            raise RefusedError(outcome.refusal, outcome.position)
        return None

    async def _count(self, windows: Sequence[Window | None]) -> None:
        found = {id(window): window for window in windows if window is not None}
        times = Counter(id(window) for window in windows if window is not None)
        for key, window in found.items():
            await self._counted_refusals.count(window, times[key])


def _has_rate(granted: Granted) -> bool:
    return granted.rights is not None and granted.rights.requests is not None


def _result(result: Outcome | InvalidCommandError) -> Result:
    if isinstance(result, Outcome) and result.refusal:
        return RefusedError(result.refusal, result.position)
    return result

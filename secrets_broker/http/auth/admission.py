"""The desk: judges who asks before the writer is bothered, and records who was refused.

What counts is the judgement under the ledger's lock, in the transaction of the event. The one
here is by the grants as this process last read them: it keeps a refused caller from costing more
than a comparison, and a caller whom it would refuse is judged under the lock all the same as long
as his refusal is an event of its own. While refusals are only counted, the grants are read again
each second, so that a grant of a moment ago opens even from where a flood comes. Nobody is refused
because this process has not read his grant yet: for a key or a certificate that it does not know
they are read first, together with all others who wait for that.
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
    """The caller is not allowed what he asks for."""

    def __init__(self, refusal: Refusal, position: int | None = None) -> None:
        super().__init__(refusal.rule)
        self.refusal = refusal
        self.position = position
        """Of its event; None where it was only counted."""


Result = Outcome | RefusedError | InvalidCommandError
"""What became of one of several commands."""


class Admission:
    """Takes commands to the writer, for those who may give them."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._tally = CountedRefusals(writer)

    async def start(self) -> None:
        """Begin to tell of floods that are over."""
        await self._tally.start()

    async def close(self) -> None:
        """Tell of all that was counted; the writer has to be there still."""
        await self._tally.close()

    async def enter(self, operation: str, context: Context, *, names: bool = False) -> None:
        """Let a caller in to an operation; raises RefusedError.

        Who may enter is judged again, with what he asks for: with each name, where it `names` any.
        """
        await self._get_to_know(context.subject)
        command = Enter(operation=operation, names=names)
        early = self._early(command, context)
        if early:
            await self._refuse(command, context, early)

    async def leave(self, operation: str, context: Context) -> None:
        """Judge under the lock, once an answer is there and before it goes out.

        Raises RefusedError: nothing is given out by a grant that ended before.
        """
        if context.subject is None:
            return
        outcome = await self._writer.enter(Enter(operation=operation), context)
        if outcome and outcome.refusal:
            raise RefusedError(outcome.refusal, outcome.position)

    async def submit(self, command: Command, context: Context) -> Outcome:
        """Record a command; raises RefusedError, and what the writer raises."""
        await self._get_to_know(context.subject)
        early = self._early(command, context)
        if early:
            outcome = await self._refuse(command, context, early)
        else:
            outcome = await self._writer.submit(command, context)
        assert outcome is not None  # noqa: S101 - only who enters has none
        if outcome.refusal:
            raise RefusedError(outcome.refusal, outcome.position)
        return outcome

    async def submit_all(self, commands: Sequence[Command], context: Context) -> list[Result]:
        """Record up to MAX_BATCH commands, in order and in one commit; each has a result.

        Raises LedgerUnavailableError where one that may be allowed cannot be recorded.
        """
        await self._get_to_know(context.subject)
        early, pace = [], TimeSlice()
        for command in commands:
            early.append(self._early(command, context))
            await pace.yield_if_over()
        windows = [self._tally.window(context) if refusal else None for refusal in early]
        recorded = [number for number, window in enumerate(windows) if window is None]
        results: dict[int, Result] = {}
        try:
            if recorded:
                told = await self._writer.submit_all([commands[n] for n in recorded], context)
                results.update(zip(recorded, map(_result, told), strict=True))
        except LedgerUnavailableError:
            # Who is refused is refused all the same, and it is told of once the ledger is back.
            windows = [self._tally.window_of(context) if refusal else None for refusal in early]
            if not all(early):
                raise
        finally:
            await self._count(windows)
        for number, refusal in enumerate(early):
            if refusal is not None and windows[number] is not None:
                results[number] = RefusedError(refusal)
        return [results[number] for number in range(len(commands))]

    async def malformed(self, operation: str, context: Context, times: int) -> None:
        """Count what broke a rule of the interface against the rate of the caller's grant.

        It is no event. Raises RefusedError where the rate was used up before: that is counted as
        in a flood. Raises LedgerUnavailableError where it is not known how much was used.
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
        await self._tally.count(self._tally.window_of(context), times)
        raise RefusedError(replace(refusal, authn=authn(granted, context.subject)))

    def granted(self, subject: Subject | None) -> Granted | None:
        """The grant of what was presented, as this process last read them."""
        return self._writer.grants.of(subject) if subject else None

    async def _get_to_know(self, subject: Subject | None) -> None:
        """Read the grants where what was presented may be one that this process has not read.

        Raises LedgerUnavailableError: then nobody knows whether it is.
        """
        if subject is None or subject.problem or not subject.well_formed:
            return
        if self.granted(subject) is None:
            await self._tally.read_grants()

    def _early(self, command: Command | Enter, context: Context) -> Refusal | None:
        grants, meters = self._writer.grants, self._writer.meters
        return judge(grants, meters, command, context, datetime.now(UTC))

    async def _refuse(
        self, command: Command | Enter, context: Context, early: Refusal
    ) -> Outcome | None:
        """Record the refusal, or count it; comes back where there is an outcome."""
        window = self._tally.window(context)
        if window is None:
            try:
                return await self._judged(command, context)
            except LedgerUnavailableError:
                # He is refused all the same, and it is told of once the ledger is back.
                window = self._tally.window_of(context)
        await self._tally.count(window)
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
            await self._tally.count(window, times[key])


def _has_rate(granted: Granted) -> bool:
    return granted.rights is not None and granted.rights.requests is not None


def _result(result: Outcome | InvalidCommandError) -> Result:
    if isinstance(result, Outcome) and result.refusal:
        return RefusedError(result.refusal, result.position)
    return result

"""The writer: many commands wait, one transaction records them all (group commit).

One task of the event loop takes the waiting commands and has them committed (committer.py). Only
then it releases the outcomes. A caller that disconnects does not disturb the batch. If the ledger
cannot be written, all waiting commands are refused: nothing is served that is not recorded.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from secrets_broker.ledger.access.grant_commands import Enter
from secrets_broker.ledger.access.grants import Grants
from secrets_broker.ledger.access.quota import Meters
from secrets_broker.ledger.commands import Command, Record
from secrets_broker.ledger.committer import Committer, Observer, Request, Result
from secrets_broker.ledger.encryption.kek_loader import KekLoader
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.encryption.kms.provider import Provider
from secrets_broker.ledger.errors import (
    InvalidCommandError,
    LedgerError,
    LedgerUnavailableError,
    QueueFullError,
)
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Outcome
from secrets_broker.ledger.projection_protocol import Projection
from secrets_broker.ledger.rollback_detection.continuity import PUBLISHED, Continuity
from secrets_broker.ledger.rollback_detection.halt import Halt
from secrets_broker.ledger.scheduling.background import BackgroundTask
from secrets_broker.ledger.scheduling.fair_queue import FairQueue, Share
from secrets_broker.ledger.scheduling.shares import share_of

MAX_BATCH: Final = 512  # a larger batch takes longer and hardly commits more a second
# One caller may hold about a third of it, nine batches of 500. At some thousands a second it is
# answered within a second or two.
MAX_WAITING: Final = 16_384


@dataclass(slots=True)
class _Waiting:
    requests: Sequence[Request]  # empty: a probe
    results: "asyncio.Future[Sequence[Result]]"


class Writer:
    """Records commands; safe for any number of tasks of one event loop."""

    def __init__(
        self,
        database_url: str,
        keyring: Keyring,
        projection: Projection,
        providers: Sequence[Provider] = (),
        continuity: Continuity = PUBLISHED,
        observer: Observer = lambda _events, _seconds: None,
    ) -> None:
        self._loader = KekLoader(database_url, keyring, providers) if providers else None
        self._committer = Committer(
            database_url, keyring, projection, self._loader, continuity, observer
        )
        self._queue: FairQueue[_Waiting] = FairQueue(MAX_WAITING, MAX_BATCH)
        self._probing: asyncio.Future[Sequence[Result]] | None = None  # the probe that still waits
        self._wake = asyncio.Event()
        self._task = BackgroundTask("ledger-writer", self._run)

    @property
    def halt(self) -> Halt:
        """What stops this writer, and everything that works beside it."""
        return self._committer.halt

    @property
    def grants(self) -> Grants:
        """The grants as of the last begun batch: admission judges requests by them."""
        return self._committer.grants

    @property
    def meters(self) -> Meters:
        """The uses of grants with limits, as far as this process counts them."""
        return self._committer.meters

    async def start(self) -> None:
        """Begin to take commands, then connect.

        Raises LedgerUnavailableError (or its WrongKeyError) if that fails now. The writer runs
        all the same, and tries again with the next command.
        """
        self._task.start()
        if self._loader:
            await self._loader.start()
        await self.probe()

    async def probe(self) -> None:
        """Do the steps of a batch without recording anything.

        Raises LedgerUnavailableError if a command would get it too.
        """
        # All callers that probe meanwhile share the one that waits.
        if self._probing is None or self._probing.done():
            self._probing = self._queued((), own=True)
        try:
            await asyncio.shield(self._probing)
        except LedgerUnavailableError as error:
            raise error.again() from None

    async def close(self) -> None:
        """Record what waits, then stop."""
        self._wake.set()
        await self._task.close(within=None)
        if self._loader:
            await self._loader.close()
        await self._committer.close()

    @property
    def waiting(self) -> int:
        """How many commands wait for a batch."""
        return self._queue.size

    async def submit(self, command: Command, context: Context) -> Outcome:
        """Record a command, and return its outcome once its event is committed.

        Raises InvalidCommandError, or LedgerUnavailableError if nothing may be served.
        """
        outcome = _only(await self._queued([(command, context)]))
        assert outcome is not None  # noqa: S101 - only one who enters has none
        return outcome

    async def note(self, command: Record, context: Context) -> Outcome:
        """Record an event of the service itself, before those of all callers.

        Raises LedgerUnavailableError.
        """
        outcome = _only(await self._queued([(command, context)], own=True))
        assert outcome is not None  # noqa: S101 - only one who enters has none
        return outcome

    async def submit_all(
        self, commands: Sequence[Command], context: Context
    ) -> Sequence[Outcome | InvalidCommandError]:
        """Record up to MAX_BATCH commands of one caller, in order and in one commit.

        A command that breaks a rule has its error among the results. Raises LedgerUnavailableError
        for all of them.
        """
        assert 0 < len(commands) <= MAX_BATCH  # noqa: S101 - the caller has checked
        results = await self._queued([(command, context) for command in commands])
        return [result for result in results if result is not None]

    async def enter(self, command: Enter, context: Context) -> Outcome | None:
        """Judge a caller under the lock; None if it may enter.

        A refusal is returned once its event is committed. Raises LedgerUnavailableError.
        """
        return _only(await self._queued([(command, context)]))

    def _queued(
        self, requests: Sequence[Request], *, own: bool = False
    ) -> "asyncio.Future[Sequence[Result]]":
        self.halt.check_own()
        if self._task.is_closing or not self._task.is_begun:
            raise LedgerUnavailableError("the writer is closed")
        results: asyncio.Future[Sequence[Result]] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(requests, results)
        if own:
            self._queue.put_own(waiting, len(requests))
        elif not self._queue.put(self._share(requests), waiting, len(requests)):
            raise QueueFullError("too many requests wait for the ledger")
        self._wake.set()
        return results

    def _share(self, requests: Sequence[Request]) -> Share:
        return share_of(requests[0][1], self.grants)  # all requests of a part are from one caller

    async def _run(self) -> None:
        while not (self._task.is_closing and not self._queue):
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                if seconds := self._committer.pause:
                    await self._task.pause(seconds)  # commands that arrive meanwhile wait too
                await self._record(self._queue.take())

    async def _record(self, batch: list[_Waiting]) -> None:
        self._probing = (
            None  # it is in this batch, if there is one; a new probe gets a newer answer
        )
        results = await self._committer.record([waiting.requests for waiting in batch])
        for waiting, result in zip(batch, results, strict=True):
            _release(waiting, result)
        if failure := self._committer.unreachable:
            # Nothing of these was sent. They waited for this attempt, so they share its failure.
            for waiting in self._queue.take_all():
                _release(waiting, failure.again())


def _release(waiting: _Waiting, results: Sequence[Result] | LedgerUnavailableError) -> None:
    if waiting.results.done():
        return  # the caller disconnected; what was recorded stays recorded
    if isinstance(results, LedgerError):
        waiting.results.set_exception(results)
    else:
        waiting.results.set_result(results)


def _only(results: Sequence[Result]) -> Outcome | None:
    (result,) = results
    if isinstance(result, InvalidCommandError):
        raise result
    return result

"""The writer: many commands wait, one transaction records them all (group commit).

One task of the event loop takes whatever waits, folds it under the ledger's lock, commits, and
only then releases the outcomes. A caller that goes away does not disturb the batch. Where the
ledger cannot be written, everything that waited is refused: nothing is served that is not
recorded.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg
import structlog

from secrets_broker.ledger.access import Enter
from secrets_broker.ledger.acknowledged import Acknowledged
from secrets_broker.ledger.authenticated import Authenticated
from secrets_broker.ledger.background import BackgroundTask
from secrets_broker.ledger.caller import caller_of
from secrets_broker.ledger.commands import Command, Name, Record
from secrets_broker.ledger.continuity import PUBLISHED, Continuity
from secrets_broker.ledger.errors import (
    FieldError,
    InvalidCommandError,
    LedgerError,
    LedgerMismatchError,
    LedgerUnavailableError,
    OutcomeUnknownError,
    QueueFullError,
    RowsMissingError,
    UnauthenticEventError,
    WrongKeyError,
)
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Fold, Outcome, Snapshot
from secrets_broker.ledger.grants import Granted, Grants
from secrets_broker.ledger.halt import Halt
from secrets_broker.ledger.kek_loader import KekLoader
from secrets_broker.ledger.keks import check_keys
from secrets_broker.ledger.keyring import Keyring
from secrets_broker.ledger.kms.provider import Provider
from secrets_broker.ledger.pace import Pace
from secrets_broker.ledger.projection import Projection
from secrets_broker.ledger.queue import Caller, FairQueue
from secrets_broker.ledger.quota import Meters, is_limited
from secrets_broker.ledger.right_edge import load_seen
from secrets_broker.ledger.seen import Seen
from secrets_broker.ledger.spacing import Spacing
from secrets_broker.ledger.store import Store
from secrets_broker.ledger.usage import load_uses
from secrets_broker.session import safe_message

_log = structlog.get_logger(__name__)

MAX_BATCH: Final = 512  # past this a batch takes longer but commits hardly more a second
# Of which one caller alone may hold about a third, nine batches of 500: at some thousand a second,
# what he has waiting is answered within a second or two.
MAX_WAITING: Final = 16_384
MAX_CLOCK_DIFFERENCE: Final = timedelta(minutes=5)
# Longer than the server's own limits, so that it only ends what the server cannot: a machine
# or a network that is gone.
BATCH_SECONDS: Final = 10.0


_OURSELVES: Final = Context(actor=None, authn="none")
_REHEARSAL: Final = Record(type="ledger.rehearsed", details={})
"""Of an event that is rolled back."""

Request = tuple[Command | Enter, Context]
Result = Outcome | InvalidCommandError | None
Observer = Callable[[int, float], None]
"""Is told of each batch of requests that is durable: its events, and the seconds from its first
INSERT until the COMMIT was answered. It must not wait, nor raise."""


@dataclass(slots=True)
class _Waiting:
    requests: Sequence[Request]  # none: a probe
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
        self._observer = observer
        self._database_url = database_url
        self._keyring = keyring
        self._loader = KekLoader(database_url, keyring, providers) if providers else None
        self._projection = projection
        self._continuity = continuity
        self.halt = Halt(continuity.file)
        """What stops this writer, and is to stop whoever works beside it."""
        self._authenticated = Authenticated(continuity.file)
        self._acknowledged = Acknowledged(continuity.file, continuity.origin)
        self.grants = Grants()
        """As of the last batch that this process began: what a request is judged by in advance."""
        self.meters = Meters()
        self._queue: FairQueue[_Waiting] = FairQueue(MAX_WAITING, MAX_BATCH)
        self._probing: asyncio.Future[Sequence[Result]] | None = None  # one that still waits
        self._wake = asyncio.Event()
        self._store: Store | None = None
        self._proven = False  # whether that connection has carried a batch
        self._spacing = Spacing()
        self._seen = Seen()
        self._rows_missing = False  # the last append was not stored whole
        self._alarm: str | None = None
        self._task = BackgroundTask("ledger-writer", self._run)

    async def start(self) -> None:
        """Begin to take commands, then connect.

        Raises LedgerUnavailableError (WrongKeyError among them) where that fails now; the
        writer runs all the same, and tries again with the next command.
        """
        self._task.start()
        if self._loader:
            await self._loader.start()
        await self.probe()

    async def probe(self) -> None:
        """Go through the steps of a batch without recording anything.

        Raises LedgerUnavailableError where a command would get it too.
        """
        # Whoever asks while one waits is answered by it: they may be many, and cost one.
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
        await self._disconnect()
        self._acknowledged.close()

    @property
    def waiting(self) -> int:
        """How many commands wait for a batch."""
        return self._queue.size

    async def submit(self, command: Command, context: Context) -> Outcome:
        """Record a command; its outcome comes once its event is committed.

        Raises InvalidCommandError, or LedgerUnavailableError where nothing may be served.
        """
        outcome = _only(await self._queued([(command, context)]))
        assert outcome is not None  # noqa: S101 - only one who enters has none
        return outcome

    async def note(self, command: Record, context: Context) -> Outcome:
        """Record what the service itself has to tell; no caller is before it.

        Raises LedgerUnavailableError.
        """
        outcome = _only(await self._queued([(command, context)], own=True))
        assert outcome is not None  # noqa: S101 - only one who enters has none
        return outcome

    async def submit_all(
        self, commands: Sequence[Command], context: Context
    ) -> Sequence[Outcome | InvalidCommandError]:
        """Record up to MAX_BATCH commands of one caller, in order and in one commit.

        What breaks a rule is among the results; raises LedgerUnavailableError for all of them.
        """
        assert 0 < len(commands) <= MAX_BATCH  # noqa: S101 - the caller has checked
        results = await self._queued([(command, context) for command in commands])
        return [result for result in results if result is not None]

    async def enter(self, command: Enter, context: Context) -> Outcome | None:
        """Judge a caller under the lock; None where he may enter.

        A refusal comes once its event is committed. Raises LedgerUnavailableError.
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
        elif not self._queue.put(self._caller(requests), waiting, len(requests)):
            raise QueueFullError("too many requests wait for the ledger")
        self._wake.set()
        return results

    def _caller(self, requests: Sequence[Request]) -> Caller:
        return caller_of(requests[0][1], self.grants)  # what comes together is of one caller

    async def _run(self) -> None:
        while not (self._task.is_closing and not self._queue):
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._space()
                await self._record(self._queue.take())

    async def _space(self) -> None:
        """Wait until the database may be tried again; what comes meanwhile waits, too."""
        if self._store is None and (seconds := self._spacing.wait(time.monotonic())):
            await self._task.pause(seconds)

    async def _record(self, batch: list[_Waiting]) -> None:
        self._probing = None  # it is in here, if there is one; who asks now gets a newer answer
        for waiting, results in zip(batch, await self._results(batch), strict=True):
            _release(waiting, results)

    async def _results(
        self, batch: Sequence[_Waiting]
    ) -> Sequence[Sequence[Result] | LedgerUnavailableError]:
        try:
            async with asyncio.timeout(BATCH_SECONDS):
                return await self._committed(batch)
        except (UnauthenticEventError, RowsMissingError) as error:
            # Both end when somebody has acted: the ledger says so itself, at the next batch.
            self._raise_alarm(error)
            failure: LedgerUnavailableError = error
        except LedgerMismatchError as error:
            self.halt.stop(error)
            failure = error
        except LedgerUnavailableError as error:
            failure = error
        except psycopg.Error as error:
            if _is_refusal(error):
                await self._disconnect()
                return await self._alone(batch, error)
            failure = LedgerUnavailableError("the database refused to write")
            _log.error("ledger_write_failed", sqlstate=error.sqlstate, why=safe_message(error))
        except TimeoutError:
            failure = self._silence()
        except Exception as error:
            # What nobody foresaw fails its batch, never the writer: those who come after would
            # wait for ever. Its text may quote a value; its type does not.
            failure = self._unforeseen(error)
        attempted = not self._proven
        await self._disconnect()
        _log.warning("batch_refused", size=len(batch), why=str(failure))
        if attempted and not isinstance(failure, OutcomeUnknownError):
            # Nothing of theirs was sent. What waited for this attempt need not have its own.
            for waiting in self._queue.take_all():
                _release(waiting, failure.again())
        return [failure.again() for _ in batch]

    async def _committed(self, batch: Sequence[_Waiting]) -> Sequence[Sequence[Result]]:
        """Record a batch; on another connection where the server ended this one meanwhile."""
        try:
            results = await self._commit(batch)
        except psycopg.Error:
            if not self._was_cut_off():
                raise
            await self._disconnect()
            results = await self._commit(batch)
        self._proven = True
        self._spacing.worked()
        return results

    def _was_cut_off(self) -> bool:
        # It did its work before, so the server was restarted or ended an idle session; and no
        # COMMIT was on its way, so nothing of the batch can have been written.
        store = self._store
        return self._proven and store is not None and store.is_lost and not store.committing

    def _raise_alarm(self, error: LedgerUnavailableError) -> None:
        """Say it once, and not at each batch that it fails."""
        self._rows_missing = isinstance(error, RowsMissingError)
        if self._alarm != str(error):
            self._alarm = str(error)
            event = "rows_not_stored" if self._rows_missing else "event_not_authentic"
            _log.critical(event, why=str(error))

    def _silence(self) -> LedgerUnavailableError:
        return self._unknown_or_unavailable("the database did not answer in time")

    def _unforeseen(self, error: Exception) -> LedgerUnavailableError:
        _log.error("writer_failed", kind=type(error).__qualname__)
        return self._unknown_or_unavailable("the writer failed")

    def _unknown_or_unavailable(self, why: str) -> LedgerUnavailableError:
        # Once a commit was on its way, nothing can be said about it.
        committing = self._store is not None and self._store.committing
        return OutcomeUnknownError(why) if committing else LedgerUnavailableError(why)

    async def _commit(self, batch: Sequence[_Waiting]) -> Sequence[Sequence[Result]]:
        self.halt.check()
        store = await self._connected()
        snapshot = await self._read(store, batch)
        _check_clock(snapshot.clock)
        if snapshot.seen.size:
            self._authenticated.hold(snapshot.authenticity)
        if self._loader:
            self._loader.see(snapshot.keks)
        fold = Fold(snapshot, self._keyring)
        results = await _taken(fold, batch)
        if fold.append.entries:
            await self._append(store, fold, asked=any(waiting.requests for waiting in batch))
        elif self._rows_missing:
            await self._rehearse(store, snapshot)
        else:
            await store.give_up()
        self._rows_missing, self._alarm = False, None
        # Only here is it known that the events are on disk: now, not before, what follows
        # them may be seen by anybody.
        self._seen = fold.append.seen()
        if fold.append.entries:
            self.halt.durable = self._seen
            self._acknowledged.keep(self._seen)
        return results

    async def _rehearse(self, store: Store, snapshot: Snapshot) -> None:
        """See that rows are stored again, before anybody is told that the failure is over."""
        fold = Fold(snapshot, self._keyring)
        fold.take(_REHEARSAL, _OURSELVES)
        await store.rehearse(fold)

    async def _append(self, store: Store, fold: Fold, *, asked: bool) -> None:
        began = time.perf_counter()
        await store.append(fold)
        if asked:
            self._observer(len(fold.append.entries), time.perf_counter() - began)

    async def _read(self, store: Store, batch: Sequence[_Waiting]) -> Snapshot:
        requests = [request for waiting in batch for request in waiting.requests]
        names = [name for name in {command.name for command, _ in requests} if name]
        snapshot = await self._snapshot(store, names)
        while unmetered := self._unmetered(context for _, context in requests):
            # The lock is given back, as above: what a grant was used for may be long.
            await store.give_up()
            for granted in unmetered:
                self.meters.start(granted, *await load_uses(store.connection, granted))
            snapshot = await self._snapshot(store, names)
        return snapshot

    async def _snapshot(self, store: Store, names: Sequence[Name]) -> Snapshot:
        snapshot = await store.read(names, self._seen, self.meters)
        self._seen, self.meters = snapshot.seen, snapshot.meters
        if snapshot.grants is not self.grants:
            self.meters = self.meters.still_right(self.grants, snapshot.grants)
            self.grants = snapshot.grants
        return replace(snapshot, meters=self.meters)

    def _unmetered(self, contexts: Iterable[Context]) -> list[Granted]:
        """The grants with limits whose use is not known, of those who ask."""
        asking = (self.grants.of(context.subject) for context in contexts if context.subject)
        found = {granted.id: granted for granted in asking if granted}
        return [
            granted
            for granted in found.values()
            if is_limited(granted.rights) and granted.id not in self.meters.by_id
        ]

    async def _alone(
        self, batch: Sequence[_Waiting], error: psycopg.Error
    ) -> Sequence[Sequence[Result] | LedgerUnavailableError]:
        """Record one command at a time, so that only the one that is refused fails."""
        single = [_Waiting([request], w.results) for w in batch for request in w.requests]
        if len(single) == 1:
            _log.warning("command_refused", sqlstate=error.sqlstate)
            return [[InvalidCommandError(FieldError("", "holds a value that cannot be stored"))]]
        alone = [(await self._results([waiting]))[0] for waiting in single]
        return [_joined([alone.pop(0) for _ in waiting.requests]) for waiting in batch]

    async def _connected(self) -> Store:
        if self._store is None:
            self._spacing.attempt(time.monotonic())
            store = await Store.connect(
                self._database_url,
                self._projection,
                self._keyring,
                continuity=self._continuity,
            )
            self._store = store  # from here on a failure closes it
            await self._check_keys(store)
            if not self._seen.size:
                self._seen = await load_seen(store.connection)
        return self._store

    async def _check_keys(self, store: Store) -> None:
        try:
            await check_keys(store.connection, self._keyring)  # no provider is asked from here
        except WrongKeyError:
            if self._loader and self._loader.failure:
                raise LedgerUnavailableError(self._loader.failure) from None
            raise

    async def _disconnect(self) -> None:
        store, self._store = self._store, None
        self._proven = False
        self.meters = Meters()  # they may have counted what was not committed
        # What was only seen here may have waited for a standby that never got it: it is gone after
        # a failover, and nobody was told of it. What was committed after it is durable with it.
        self._seen = self.halt.durable
        if store:
            await store.close()


def _release(waiting: _Waiting, results: Sequence[Result] | LedgerUnavailableError) -> None:
    if waiting.results.done():
        return  # the caller went away; what was recorded stays recorded
    if isinstance(results, LedgerError):
        waiting.results.set_exception(results)
    else:
        waiting.results.set_result(results)


async def _taken(fold: Fold, batch: Sequence[_Waiting]) -> list[list[Result]]:
    """What becomes of each request; large ones take a while, and others have their turn."""
    pace, results = Pace(), []
    for waiting in batch:
        taken: list[Result] = []
        for request in waiting.requests:
            taken.append(_take(fold, *request))
            await pace.breathe()
        results.append(taken)
    return results


def _take(fold: Fold, command: Command | Enter, context: Context) -> Result:
    try:
        if isinstance(command, Enter):
            return fold.enter(command, context)
        return fold.take(command, context)
    except InvalidCommandError as error:
        return error


def _only(results: Sequence[Result]) -> Outcome | None:
    (result,) = results
    if isinstance(result, InvalidCommandError):
        raise result
    return result


def _joined(
    parts: Sequence[Sequence[Result] | LedgerUnavailableError],
) -> Sequence[Result] | LedgerUnavailableError:
    joined: list[Result] = []
    for part in parts:
        if isinstance(part, LedgerUnavailableError):
            return part
        joined += part
    return joined


def _check_clock(clock: datetime) -> None:
    difference = abs(datetime.now(UTC) - clock)
    if difference > MAX_CLOCK_DIFFERENCE:
        raise LedgerUnavailableError(
            f"the database's clock and this machine's differ by {difference}: set them right"
        )


def _is_refusal(error: psycopg.Error) -> bool:
    # Class 22 is bad data, 23 a broken constraint: the command's own fault.
    return (error.sqlstate or "")[:2] in ("22", "23")

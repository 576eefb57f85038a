"""The writer: many commands wait, one transaction records them all (group commit).

One task of the event loop takes whatever waits, folds it under the ledger's lock, commits, and
only then releases the outcomes. A caller that goes away does not disturb the batch. Where the
ledger cannot be written, everything that waited is refused: nothing is served that is not
recorded.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg
import structlog

from secrets_broker.ledger.commands import Command
from secrets_broker.ledger.continuity import PUBLISHED, Continuity
from secrets_broker.ledger.errors import (
    FieldError,
    InvalidCommandError,
    LedgerError,
    LedgerMismatchError,
    LedgerUnavailableError,
    OutcomeUnknownError,
    QueueFullError,
    WrongKeyError,
)
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Fold, Outcome, Snapshot
from secrets_broker.ledger.kek_loader import KekLoader
from secrets_broker.ledger.keks import check_keys
from secrets_broker.ledger.keyring import Keyring
from secrets_broker.ledger.kms.provider import Provider
from secrets_broker.ledger.projection import Projection
from secrets_broker.ledger.right_edge import check_contains, load_seen
from secrets_broker.ledger.seen import Seen
from secrets_broker.ledger.store import Store, TooFarBehindError

_log = structlog.get_logger(__name__)

MAX_BATCH: Final = 512  # past this a batch takes longer but commits hardly more a second
MAX_WAITING: Final = 4_096  # at some thousand a second, what waits is answered within a second
MAX_CLOCK_DIFFERENCE: Final = timedelta(minutes=5)
# Longer than the server's own limits, so that it only ends what the server cannot: a machine
# or a network that is gone.
BATCH_SECONDS: Final = 10.0


Request = tuple[Command, Context]
Result = Outcome | LedgerError | None


@dataclass(slots=True)
class _Waiting:
    request: Request | None  # None: a probe
    outcome: "asyncio.Future[Outcome | None]"


class Writer:
    """Records commands; safe for any number of tasks of one event loop."""

    def __init__(
        self,
        database_url: str,
        keyring: Keyring,
        projection: Projection,
        providers: Sequence[Provider] = (),
        continuity: Continuity = PUBLISHED,
    ) -> None:
        self._database_url = database_url
        self._keyring = keyring
        self._loader = KekLoader(database_url, keyring, providers) if providers else None
        self._projection = projection
        self._continuity = continuity
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._store: Store | None = None
        self._seen = Seen()
        self._stopped: LedgerMismatchError | None = None
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to take commands, then connect.

        Raises LedgerUnavailableError (WrongKeyError among them) where that fails now; the
        writer runs all the same, and tries again with the next command.
        """
        self._task = asyncio.create_task(self._run(), name="ledger-writer")
        if self._loader:
            await self._loader.start()
        await self.probe()

    async def probe(self) -> None:
        """Go through the steps of a batch without recording anything.

        Raises LedgerUnavailableError where a command would get it too.
        """
        await self._submit(None)

    async def close(self) -> None:
        """Record what waits, then stop."""
        self._closing = True
        self._wake.set()
        if self._task:
            await self._task
        if self._loader:
            await self._loader.close()
        await self._disconnect()

    def stop(self, why: LedgerMismatchError) -> None:
        """Record nothing any more: the ledger is not what this process, or an auditor, knows."""
        _log.critical("ledger_mismatch", why=str(why))
        self._stopped = why

    async def submit(self, command: Command, context: Context) -> Outcome:
        """Record a command; its outcome comes once its event is committed.

        Raises InvalidCommandError, or LedgerUnavailableError where nothing may be served.
        """
        outcome = await self._submit((command, context))
        assert outcome is not None  # noqa: S101 - only a probe has none
        return outcome

    async def _submit(self, request: Request | None) -> Outcome | None:
        if self._stopped:
            raise LedgerMismatchError(str(self._stopped))
        if self._closing or self._task is None:
            raise LedgerUnavailableError("the writer is closed")
        if len(self._waiting) >= MAX_WAITING:
            raise QueueFullError("too many requests wait for the ledger")
        outcome: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, outcome))
        self._wake.set()
        return await outcome

    async def _run(self) -> None:
        while not (self._closing and not self._waiting):
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                count = min(len(self._waiting), MAX_BATCH)
                await self._record([self._waiting.popleft() for _ in range(count)])

    async def _record(self, batch: Sequence[_Waiting]) -> None:
        for waiting, result in zip(batch, await self._results(batch), strict=True):
            if waiting.outcome.done():
                continue  # the caller went away; what was recorded stays recorded
            if isinstance(result, LedgerError):
                waiting.outcome.set_exception(result)
            else:
                waiting.outcome.set_result(result)

    async def _results(self, batch: Sequence[_Waiting]) -> Sequence[Result]:
        try:
            async with asyncio.timeout(BATCH_SECONDS):
                return await self._commit(batch)
        except LedgerMismatchError as error:
            self.stop(error)
            failure: LedgerError = error
        except LedgerError as error:
            failure = error
        except psycopg.Error as error:
            if _is_refusal(error):
                await self._disconnect()
                return await self._alone(batch, error)
            failure = LedgerUnavailableError("the database refused to write")
            _log.error("ledger_write_failed", sqlstate=error.sqlstate, why=_primary(error))
        except TimeoutError:
            failure = self._silence()
        except Exception as error:
            # What nobody foresaw fails its batch, never the writer: those who come after would
            # wait for ever. Its text may quote a value; its type does not.
            failure = self._unforeseen(error)
        await self._disconnect()
        _log.warning("batch_refused", size=len(batch), why=str(failure))
        # One for each caller: an exception that is raised again and again grows its traceback.
        return [type(failure)(str(failure)) for _ in batch]

    def _silence(self) -> LedgerError:
        return self._unknown_or_unavailable("the database did not answer in time")

    def _unforeseen(self, error: Exception) -> LedgerError:
        _log.error("writer_failed", kind=type(error).__qualname__)
        return self._unknown_or_unavailable("the writer failed")

    def _unknown_or_unavailable(self, why: str) -> LedgerError:
        # Once a commit was on its way, nothing can be said about it.
        committing = self._store is not None and self._store.committing
        return OutcomeUnknownError(why) if committing else LedgerUnavailableError(why)

    async def _commit(self, batch: Sequence[_Waiting]) -> Sequence[Result]:
        store = await self._connected()
        snapshot = await self._read(store, batch)
        _check_clock(snapshot.clock)
        if self._loader:
            self._loader.see(snapshot.keks)
        fold = Fold(snapshot, self._keyring)
        results = [_take(fold, waiting) for waiting in batch]
        if fold.append.entries:
            await store.append(fold.append)
        else:
            await store.give_up()
        # Only here is it known that the events are on disk: now, not before, what follows
        # them may be seen by anybody.
        self._seen = fold.append.seen()
        return results

    async def _read(self, store: Store, batch: Sequence[_Waiting]) -> Snapshot:
        named = {waiting.request[0].name for waiting in batch if waiting.request}
        names = [name for name in named if name]
        try:
            return await store.read(names, self._seen)
        except TooFarBehindError:
            # The lock is given back first: others need not wait for this process to catch up.
            await store.give_up()
            self._seen = await self._caught_up(store)
            return await store.read(names, self._seen)

    async def _caught_up(self, store: Store) -> Seen:
        known = self._seen
        seen = await load_seen(store.connection)
        await check_contains(store.connection, known)
        return seen

    async def _alone(self, batch: Sequence[_Waiting], error: psycopg.Error) -> Sequence[Result]:
        if len(batch) == 1:
            _log.warning("command_refused", sqlstate=error.sqlstate)
            return [InvalidCommandError(FieldError("", "holds a value that cannot be stored"))]
        return [(await self._results([waiting]))[0] for waiting in batch]

    async def _connected(self) -> Store:
        if self._store is None:
            store = await Store.connect(
                self._database_url, self._projection, continuity=self._continuity
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
        if store:
            await store.close()


def _take(fold: Fold, waiting: _Waiting) -> Result:
    if waiting.request is None:
        return None
    try:
        return fold.take(*waiting.request)
    except InvalidCommandError as error:
        return error


def _check_clock(clock: datetime) -> None:
    difference = abs(datetime.now(UTC) - clock)
    if difference > MAX_CLOCK_DIFFERENCE:
        raise LedgerUnavailableError(
            f"the database's clock and this machine's differ by {difference}: set them right"
        )


def _is_refusal(error: psycopg.Error) -> bool:
    # Class 22 is bad data, 23 a broken constraint: the command's own fault.
    return (error.sqlstate or "")[:2] in ("22", "23")


def _primary(error: psycopg.Error) -> str:
    # Only the message: PostgreSQL's detail line quotes the values of the failing row.
    return error.diag.message_primary or type(error).__name__

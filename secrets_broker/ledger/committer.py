"""Records one batch, from the lock to the outcomes.

    connect ─► read under the lock ─► fold ─► append and COMMIT ─► outcomes

A batch is recorded in one transaction, or all of it is refused: nothing is served that is not
recorded. Store has the SQL of the two round trips, Fold the decisions between them.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg
import structlog

from secrets_broker.ledger.access.grant_commands import Enter
from secrets_broker.ledger.access.grants import Granted, Grants
from secrets_broker.ledger.access.quota import Meters, is_limited
from secrets_broker.ledger.access.usage import load_uses
from secrets_broker.ledger.commands import Command, Name, Record
from secrets_broker.ledger.encryption.kek_loader import KekLoader
from secrets_broker.ledger.encryption.keks import check_keys
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import (
    FieldError,
    InvalidCommandError,
    LedgerMismatchError,
    LedgerUnavailableError,
    OutcomeUnknownError,
    RowsMissingError,
    UnauthenticEventError,
    WrongKeyError,
)
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Fold, Outcome, Snapshot
from secrets_broker.ledger.projection_protocol import Projection
from secrets_broker.ledger.rollback_detection.acknowledged import Acknowledged
from secrets_broker.ledger.rollback_detection.continuity import Continuity
from secrets_broker.ledger.rollback_detection.halt import Halt
from secrets_broker.ledger.rollback_detection.mac_requirement import MacRequirement
from secrets_broker.ledger.scheduling.backoff import Backoff
from secrets_broker.ledger.scheduling.time_slice import TimeSlice
from secrets_broker.ledger.store import Store
from secrets_broker.ledger.transparency_log.frontier import load_tree_state
from secrets_broker.ledger.tree_state import TreeState
from secrets_broker.session import safe_message

_log = structlog.get_logger(__name__)

MAX_CLOCK_DIFFERENCE: Final = timedelta(minutes=5)
# Longer than the server's own limits. It ends only what the server cannot end: a batch whose
# machine or network is gone.
BATCH_SECONDS: Final = 10.0

_OURSELVES: Final = Context(actor=None, authn="none")
_REHEARSAL: Final = Record(type="ledger.rehearsed", details={})
"""The command of an event that is rolled back."""

Request = tuple[Command | Enter, Context]
Batch = Sequence[Sequence[Request]]
"""The requests of several callers, a part for each; an empty part is a probe."""
Result = Outcome | InvalidCommandError | None
Observer = Callable[[int, float], None]
"""Called for each durable batch of requests, with its number of events and the seconds from its
first INSERT to the answer of COMMIT. It must neither wait nor raise."""


class Committer:
    """Records batches one after another, over its own connection."""

    def __init__(
        self,
        database_url: str,
        keyring: Keyring,
        projection: Projection,
        loader: KekLoader | None,
        continuity: Continuity,
        observer: Observer,
    ) -> None:
        self._observer = observer
        self._database_url = database_url
        self._keyring = keyring
        self._loader = loader
        self._projection = projection
        self._continuity = continuity
        self.halt = Halt(continuity.file)
        self._mac_requirement = MacRequirement(continuity.file)
        self._acknowledged = Acknowledged(continuity.file, continuity.origin)
        self.grants = Grants()
        """The grants as of the last batch that this process began."""
        self.meters = Meters()
        self.unreachable: LedgerUnavailableError | None = None
        """Why the last batch could not begin; None if it began. Nothing of it was sent."""
        self._store: Store | None = None
        self._proven = False  # whether this connection has committed a batch
        self._backoff = Backoff()
        self._tree_state = TreeState()
        self._rows_missing = False  # the last append was not stored completely
        self._alarm: str | None = None

    @property
    def pause(self) -> float:
        """How many seconds to wait before the next batch, by the back-off."""
        return 0.0 if self._store else self._backoff.wait(time.monotonic())

    async def record(self, batch: Batch) -> Sequence[Sequence[Result] | LedgerUnavailableError]:
        """Record a batch and return the result of each part; raises nothing."""
        self.unreachable = None
        return await self._results(batch)

    async def close(self) -> None:
        """Close the connection, and store what was acknowledged as a fact."""
        await self._disconnect()
        self._acknowledged.close()

    async def _results(self, batch: Batch) -> Sequence[Sequence[Result] | LedgerUnavailableError]:
        try:
            async with asyncio.timeout(BATCH_SECONDS):
                return await self._committed(batch)
        except (UnauthenticEventError, RowsMissingError) as error:
            # Both end once an operator has acted. The next batch finds out by itself.
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
                return await self._one_by_one(batch, error)
            failure = LedgerUnavailableError("the database refused to write")
            _log.error("ledger_write_failed", sqlstate=error.sqlstate, why=safe_message(error))
        except TimeoutError:
            failure = self._silence()
        except Exception as error:
            # An unforeseen error fails its batch, never the writer: later callers would wait for
            # ever. Its text may quote a value; its type does not.
            failure = self._unforeseen(error)
        attempted = not self._proven
        await self._disconnect()
        _log.warning("batch_refused", size=len(batch), why=str(failure))
        if attempted and not isinstance(failure, OutcomeUnknownError):
            self.unreachable = failure
        return [failure.again() for _ in batch]

    async def _committed(self, batch: Batch) -> Sequence[Sequence[Result]]:
        """Record a batch; reconnect once if the server ended the connection meanwhile."""
        try:
            results = await self._commit(batch)
        except psycopg.Error:
            if not self._was_cut_off():
                raise
            await self._disconnect()
            results = await self._commit(batch)
        self._proven = True
        self._backoff.worked()
        return results

    def _was_cut_off(self) -> bool:
        # The connection worked before, so the server was restarted or ended an idle session. No
        # COMMIT was sent, so nothing of the batch can have been written.
        store = self._store
        return self._proven and store is not None and store.is_lost and not store.committing

    def _raise_alarm(self, error: LedgerUnavailableError) -> None:
        """Log it once, not at each batch that it fails."""
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
        # Once COMMIT was sent, the outcome is unknown.
        committing = self._store is not None and self._store.committing
        return OutcomeUnknownError(why) if committing else LedgerUnavailableError(why)

    async def _commit(self, batch: Batch) -> Sequence[Sequence[Result]]:
        self.halt.check()
        store = await self._connected()
        snapshot = await self._read(store, batch)
        _check_clock(snapshot.clock)
        if snapshot.tree_state.size:
            self._mac_requirement.hold(snapshot.authenticity)
        if self._loader:
            self._loader.see(snapshot.keks)
        fold = Fold(snapshot, self._keyring)
        results = await _taken(fold, batch)
        if fold.append.entries:
            await self._append(store, fold, asked=any(batch))
        elif self._rows_missing:
            await self._rehearse(store, snapshot)
        else:
            await store.give_up()
        self._rows_missing, self._alarm = False, None
        # Only now are the events known to be durable. Nothing that follows from them may be shown
        # to anybody before.
        self._tree_state = fold.append.tree_state()
        if fold.append.entries:
            self.halt.durable = self._tree_state
            self._acknowledged.keep(self._tree_state)
        return results

    async def _rehearse(self, store: Store, snapshot: Snapshot) -> None:
        """Check that rows are stored again, before the failure counts as over."""
        fold = Fold(snapshot, self._keyring)
        fold.take(_REHEARSAL, _OURSELVES)
        await store.rehearse(fold)

    async def _append(self, store: Store, fold: Fold, *, asked: bool) -> None:
        began = time.perf_counter()
        await store.append(fold)
        if asked:
            self._observer(len(fold.append.entries), time.perf_counter() - began)

    async def _read(self, store: Store, batch: Batch) -> Snapshot:
        requests = [request for part in batch for request in part]
        names = [name for name in {command.name for command, _ in requests} if name]
        snapshot = await self._snapshot(store, names)
        while unmetered := self._unmetered(context for _, context in requests):
            # Give the lock back while the uses of these grants are read: they may be many.
            await store.give_up()
            for granted in unmetered:
                self.meters.start(granted, *await load_uses(store.connection, granted))
            snapshot = await self._snapshot(store, names)
        return snapshot

    async def _snapshot(self, store: Store, names: Sequence[Name]) -> Snapshot:
        snapshot = await store.read(names, self._tree_state, self.meters)
        self._tree_state, self.meters = snapshot.tree_state, snapshot.meters
        if snapshot.grants is not self.grants:
            self.meters = self.meters.still_right(self.grants, snapshot.grants)
            self.grants = snapshot.grants
        return replace(snapshot, meters=self.meters)

    def _unmetered(self, contexts: Iterable[Context]) -> list[Granted]:
        """The callers' grants that have limits, but no meter yet."""
        asking = (self.grants.of(context.subject) for context in contexts if context.subject)
        found = {granted.id: granted for granted in asking if granted}
        return [
            granted
            for granted in found.values()
            if is_limited(granted.rights) and granted.id not in self.meters.by_id
        ]

    async def _one_by_one(
        self, batch: Batch, error: psycopg.Error
    ) -> Sequence[Sequence[Result] | LedgerUnavailableError]:
        """Record one command at a time, so that only the refused one fails."""
        single = [[request] for requests in batch for request in requests]
        if len(single) == 1:
            _log.warning("command_refused", sqlstate=error.sqlstate)
            return [[InvalidCommandError(FieldError("", "holds a value that cannot be stored"))]]
        results = [(await self._results([requests]))[0] for requests in single]
        return [_joined([results.pop(0) for _ in requests]) for requests in batch]

    async def _connected(self) -> Store:
        if self._store is None:
            self._backoff.attempt(time.monotonic())
            store = await Store.connect(
                self._database_url,
                self._projection,
                self._keyring,
                continuity=self._continuity,
            )
            self._store = store  # from here on a failure closes it
            await self._check_keys(store)
            if not self._tree_state.size:
                self._tree_state = await load_tree_state(store.connection)
        return self._store

    async def _check_keys(self, store: Store) -> None:
        try:
            await check_keys(store.connection, self._keyring)  # calls no KMS
        except WrongKeyError:
            if self._loader and self._loader.failure:
                raise LedgerUnavailableError(self._loader.failure) from None
            raise

    async def _disconnect(self) -> None:
        store, self._store = self._store, None
        self._proven = False
        self.meters = Meters()  # they may count uses that were not committed
        # Events that were only read may still wait for a standby. A failover can lose them, and no
        # caller was told of them. So go back to the newest tree state known to be durable.
        self._tree_state = self.halt.durable
        if store:
            await store.close()


async def _taken(fold: Fold, batch: Batch) -> list[list[Result]]:
    """The result of each request; a time slice lets other tasks run in between."""
    time_slice, results = TimeSlice(), []
    for requests in batch:
        taken: list[Result] = []
        for request in requests:
            taken.append(_take(fold, *request))
            await time_slice.yield_if_over()
        results.append(taken)
    return results


def _take(fold: Fold, command: Command | Enter, context: Context) -> Result:
    try:
        if isinstance(command, Enter):
            return fold.enter(command, context)
        return fold.take(command, context)
    except InvalidCommandError as error:
        return error


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
    # Class 22 is bad data, class 23 a broken constraint: the command is at fault.
    return (error.sqlstate or "")[:2] in ("22", "23")

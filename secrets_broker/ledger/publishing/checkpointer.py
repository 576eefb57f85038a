"""Makes checkpoints some time after the ledger grew; any process may make the next one.

No state is carried from one checkpoint to the next. Each one is computed from what is stored and
durable, proven consistent with the published one and the one kept outside, signed, published by
compare-and-swap, and kept outside. The checkpointer runs beside the writer, on its own connection,
and takes no lock that a writer takes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from psycopg import AsyncConnection

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.errors import LedgerMismatchError, LedgerUnavailableError
from secrets_broker.ledger.rollback_detection.continuity import (
    PUBLISHED,
    Continuity,
    restored_since,
)
from secrets_broker.ledger.rollback_detection.halt import Halt
from secrets_broker.ledger.scheduling.background import BackgroundTask
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint_store import (
    Published,
    publish,
    read_durable,
    read_published,
)
from secrets_broker.ledger.transparency_log.note import NoteError, SigningKey
from secrets_broker.ledger.transparency_log.proof import (
    ProofError,
    plan_consistency,
    verify_extension,
)
from secrets_broker.ledger.transparency_log.stored_hashes import prove, root_at
from secrets_broker.session import safe_message

_log = structlog.get_logger(__name__)

_LAST_SECONDS: Final = 2.0  # a worker that ends must not wait long


class Checkpointer:
    """One task of the event loop."""

    def __init__(
        self,
        database_url: str,
        key: SigningKey,
        seconds: float,
        continuity: Continuity = PUBLISHED,
        halt: Halt | None = None,
    ) -> None:
        self._database_url = database_url
        self._key = key
        self._seconds = seconds
        self._continuity = continuity
        self._halt = halt or Halt(continuity.file)
        self._connection: AsyncConnection[Any] | None = None
        self._task = BackgroundTask("checkpointer", self._run)
        self._trouble: str | None = None
        self._unreadable = 0

    async def start(self) -> None:
        """Begin; a failure is logged and tried again."""
        self._task.start()

    async def close(self) -> None:
        """Make one more checkpoint if the ledger grew, then stop."""
        # The current one may wait long for a standby.
        await self._task.close(within=2 * _LAST_SECONDS)
        await self._disconnect()

    async def _run(self) -> None:
        closing = False
        while not closing:
            closing = await self._task.pause(self._seconds)
            try:
                async with asyncio.timeout(self._patience):
                    await self._once()
                self._note(None)
            except LedgerMismatchError as error:
                self._halt.stop(error)
                return
            except Exception as error:
                # An unforeseen error must not end the checkpoints unnoticed either.
                self._note(safe_message(error))
                await self._disconnect()

    @property
    def _patience(self) -> float:
        return _LAST_SECONDS if self._task.is_closing else 30.0

    async def _once(self) -> None:
        self._halt.check()
        if self._connection is None:
            self._connection = await connect(self._database_url)
            await self._continuity.check(self._connection)
        published = await make_checkpoint(self._connection, self._key, self._continuity)
        if published:
            await self._continuity.keep(self._connection, published)
        await self._count_unreadable(self._connection)

    async def _count_unreadable(self, connection: AsyncConnection[Any]) -> None:
        count = (await read_published(connection)).unreadable
        if count > self._unreadable:
            _log.error("cosignatures_left_out", count=count, why="they are no signature lines")
        self._unreadable = count

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            await connection.close()

    def _note(self, why: str | None) -> None:
        """Log a failure once, not each second, and its end."""
        if why != self._trouble:
            if why:
                _log.error("checkpoint_failed", why=why)
            else:
                _log.info("checkpoints_go_on")
        self._trouble = why


async def make_checkpoint(
    connection: AsyncConnection[Any], key: SigningKey, continuity: Continuity | None = PUBLISHED
) -> SignedCheckpoint | None:
    """Publish a checkpoint of what is durable, if there is more than is published.

    Returns what is published now; None before the first event. Raises LedgerMismatchError if the
    ledger does not extend all that is known of it; with `continuity` None that is only the
    published checkpoint. Raises LedgerUnavailableError on a standby or under another origin, and
    OutcomeUnknownError if the database does not confirm that what was read is durable.
    """
    state = await _read(connection, read_published)
    if await _is_done(connection, state, key):
        return state.checkpoint
    if continuity:
        await continuity.check(connection)
    state = await _read(connection, read_durable)
    if await _is_done(connection, state, key):  # by another process, while this one waited
        return state.checkpoint
    checkpoint = Checkpoint(key.name, state.size, await _root(connection, state, key))
    # Only what is durable is signed: a failover can lose what still waits for a standby. Died
    # before it is published: the signature is nowhere; the next one is of the same tree or of one
    # that extends it.
    signed = SignedCheckpoint.sign(checkpoint, key)
    moved = await publish(connection, signed, state.place)
    return signed if moved else (await read_published(connection)).checkpoint


async def _read(
    connection: AsyncConnection[Any],
    read: Callable[[AsyncConnection[Any]], Awaitable[Published]],
) -> Published:
    try:
        return await read(connection)
    except NoteError as error:
        raise LedgerMismatchError(f"the published checkpoint cannot be read: {error}") from None


async def _is_done(connection: AsyncConnection[Any], state: Published, key: SigningKey) -> bool:
    """Whether there is nothing to sign; raises LedgerUnavailableError if it must not be signed."""
    if state.in_recovery:
        raise LedgerUnavailableError("this database is a standby: no checkpoint is made of it")
    origin, size = state.place
    if origin not in (None, key.name) and not await _renamed(connection, state, key):
        raise LedgerUnavailableError(
            f"this ledger's checkpoints are of {origin}, and LEDGER_SIGNING_KEY is of {key.name}: "
            "only a ledger that was restored takes another origin; see: secrets-broker restored"
        )
    if origin == key.name and state.size < size:
        raise LedgerMismatchError(
            f"the ledger has {state.size} events, and the published checkpoint is of {size}"
        )
    return origin in (None, key.name) and state.size == size


async def _renamed(connection: AsyncConnection[Any], state: Published, key: SigningKey) -> bool:
    if state.checkpoint is None:
        return False
    return (await restored_since(connection, state.checkpoint.checkpoint, key.name)).renamed


async def _root(connection: AsyncConnection[Any], state: Published, key: SigningKey) -> bytes:
    """The root of what is committed, proven to extend the log's published checkpoint."""
    before = state.checkpoint.checkpoint if state.checkpoint else None
    try:
        root = await root_at(connection, state.size)
        if before and before.origin == key.name:
            proof = await prove(connection, plan_consistency(before.size, state.size))
            verify_extension(before.size, state.size, before.root, root, proof)
    except ProofError as error:
        raise LedgerMismatchError(
            f"the ledger does not extend its published checkpoint: {error}"
        ) from None
    return root

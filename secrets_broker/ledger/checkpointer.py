"""Makes checkpoints: some time after the ledger grew, by whichever process gets there.

Nothing is remembered from one checkpoint to the next. Each is computed from what is stored and
committed, proven consistent with the published one, signed, and then published by
compare-and-swap. It runs beside the writer, on a connection of its own, and takes no lock.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from secrets_broker.ledger.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.connection import connect
from secrets_broker.ledger.continuity import CheckpointFile, restored_since
from secrets_broker.ledger.errors import (
    LedgerError,
    LedgerMismatchError,
    LedgerUnavailableError,
)
from secrets_broker.ledger.hashes import prove, root_at
from secrets_broker.ledger.note import NoteError, SigningKey
from secrets_broker.ledger.proof import ProofError, plan_consistency, verify_extension
from secrets_broker.ledger.published import Published, publish, read_published

_log = structlog.get_logger(__name__)


class Checkpointer:
    """One task of the event loop."""

    def __init__(
        self,
        database_url: str,
        key: SigningKey,
        seconds: float,
        file: CheckpointFile | None = None,
        on_mismatch: Callable[[LedgerMismatchError], None] = lambda _: None,
    ) -> None:
        self._database_url = database_url
        self._key = key
        self._seconds = seconds
        self._file = file
        self._on_mismatch = on_mismatch
        self._connection: AsyncConnection[Any] | None = None
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._trouble: str | None = None

    async def start(self) -> None:
        """Begin; what goes wrong is logged, and tried again."""
        self._task = asyncio.create_task(self._run(), name="checkpointer")

    async def close(self) -> None:
        """Make one more where the ledger grew, then stop."""
        self._closing.set()
        if self._task:
            await self._task
        await self._disconnect()

    async def _run(self) -> None:
        going_on = True
        while going_on:
            going_on = not await self._closed_within(self._seconds)
            try:
                async with asyncio.timeout(self._patience):
                    await self._once()
                self._note(None)
            except LedgerMismatchError as error:
                _log.critical("checkpoint_mismatch", why=str(error))
                self._on_mismatch(error)
                return
            except (LedgerError, psycopg.Error, OSError, TimeoutError) as error:
                self._note(_words(error))
                await self._disconnect()
            except Exception as error:
                # What nobody foresaw must not end the checkpoints unheard. Its text may quote
                # anything; its type does not.
                self._note(f"unexpected {type(error).__qualname__}")
                await self._disconnect()

    @property
    def _patience(self) -> float:
        return 2.0 if self._closing.is_set() else 30.0  # a worker that ends does not wait long

    async def _closed_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
        return self._closing.is_set()

    async def _once(self) -> None:
        if self._connection is None:
            self._connection = await connect(self._database_url)
        published = await make_checkpoint(self._connection, self._key)
        if published and self._file:
            await asyncio.to_thread(self._file.keep, published)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            await connection.close()

    def _note(self, why: str | None) -> None:
        """Log a trouble once, not each second, and that it is over."""
        if why != self._trouble:
            if why:
                _log.error("checkpoint_failed", why=why)
            else:
                _log.info("checkpoints_go_on")
        self._trouble = why


async def make_checkpoint(
    connection: AsyncConnection[Any], key: SigningKey
) -> SignedCheckpoint | None:
    """Publish a checkpoint of what is committed, if there is more than is published.

    Returns what is published now; None before the first event. Raises LedgerMismatchError where
    the ledger does not extend the published checkpoint, and LedgerUnavailableError on a standby
    or under another origin.
    """
    state = await _state(connection, key)
    origin, published_size = state.place
    if origin in (None, key.name) and state.size == published_size:
        return state.checkpoint
    checkpoint = Checkpoint(key.name, state.size, await _root(connection, state, key))
    # Only what is committed is read here, so only that is signed. Died before it is published:
    # the signature is nowhere; the next one is of the same tree or of one that extends it.
    signed = SignedCheckpoint.sign(checkpoint, key)
    moved = await publish(connection, signed, state.place)
    return signed if moved else (await read_published(connection)).checkpoint


async def _state(connection: AsyncConnection[Any], key: SigningKey) -> Published:
    try:
        state = await read_published(connection)
    except NoteError as error:
        raise LedgerMismatchError(f"the published checkpoint cannot be read: {error}") from None
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
    return state


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


def _words(error: Exception) -> str:
    if isinstance(error, psycopg.Error):
        # Only the message: PostgreSQL's detail line quotes the values of a row.
        return error.diag.message_primary or type(error).__name__
    return str(error) or type(error).__name__

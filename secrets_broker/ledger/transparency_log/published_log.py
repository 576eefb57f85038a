"""Reads the published log by SQL: consistency proofs, tiles, kept checkpoints.

Nothing beyond the published size is shown, since no signature covers it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.errors import LedgerMismatchError, LedgerUnavailableError
from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint_store import (
    COSIGNATURES,
    NotPublishedError,
    read_published,
)
from secrets_broker.ledger.transparency_log.cosignatures import with_cosignatures
from secrets_broker.ledger.transparency_log.note import NoteError
from secrets_broker.ledger.transparency_log.proof import (
    ProofError,
    Run,
    plan_consistency,
)
from secrets_broker.ledger.transparency_log.stored_entries import read_rows
from secrets_broker.ledger.transparency_log.stored_hashes import prove, read_runs, root_at
from secrets_broker.ledger.transparency_log.tile import Tile, encode_bundle

_PUBLISHED_SIZE: Final = "SELECT size FROM ledger.published WHERE origin IS NOT NULL"
_KEPT: Final = """
    SELECT kept.signed_at, kept.origin, kept.size, kept.note, __cosignatures__
    FROM ledger.checkpoints AS kept
""".replace("__cosignatures__", COSIGNATURES.replace("__of__", "kept"))
_KEPT_AFTER: Final = (
    _KEPT
    + """
    WHERE (kept.signed_at, kept.origin, kept.size) > (%s, %s, %s)
    ORDER BY kept.signed_at, kept.origin, kept.size LIMIT %s"""
)


@dataclass(frozen=True, slots=True)
class Consistency:
    """That the first `old` events are the beginning of the first `size` ones."""

    old: int
    size: int
    old_root: bytes
    root: bytes
    proof: tuple[bytes, ...]


async def published(connection: AsyncConnection[Any]) -> SignedCheckpoint:
    """The published checkpoint with its cosignatures.

    Raises NotPublishedError before the first one, and LedgerUnavailableError on a standby, which
    may be behind what was published.
    """
    try:
        state = await read_published(connection)
    except NoteError as error:
        raise LedgerMismatchError(f"the published checkpoint was changed: {error}") from None
    if state.in_recovery:
        raise LedgerUnavailableError("this database is a standby: ask the primary")
    if state.checkpoint is None:
        raise NotPublishedError("no checkpoint has been made yet")
    return state.checkpoint


async def consistency(
    connection: AsyncConnection[Any], old: int, size: int | None = None
) -> Consistency:
    """The proof between two sizes; the second is by default the published one.

    Raises NotPublishedError if a size is beyond the published one, or the old one is the larger.
    Raises LedgerMismatchError if the stored tree is not what was signed.
    """
    top = (await published(connection)).checkpoint
    new = top.size if size is None else size
    if not old <= new <= top.size:
        raise NotPublishedError(f"sizes go from small to large, up to the published {top.size}")
    try:
        proof = await prove(connection, plan_consistency(old, new))
        roots = await root_at(connection, old), await root_at(connection, new)
    except ProofError as error:
        raise LedgerMismatchError(f"the stored tree is not complete: {error}") from None
    if new == top.size and roots[1] != top.root:
        raise LedgerMismatchError(
            f"the root of the first {new} events is not the one that was signed"
        )
    return Consistency(old, new, *roots, tuple(proof))


async def tile(connection: AsyncConnection[Any], wanted: Tile) -> bytes | None:
    """The bytes of a tile or an entry bundle; None if the published log has no such tile."""
    cursor = await connection.execute(_PUBLISHED_SIZE)
    size = await cursor.fetchone()
    if size is None or not wanted.is_within(size[0]):
        return None
    if wanted.level is None:
        parts = [row.entry for row in await read_rows(connection, wanted.start, wanted.width)]
    else:
        run = Run(wanted.level, wanted.start, wanted.width)
        parts = (await read_runs(connection, [run]))[run]
    if len(parts) != wanted.width:
        raise LedgerMismatchError(f"{wanted.path} was published, and is not all there any more")
    return encode_bundle(parts) if wanted.level is None else b"".join(parts)


Place = tuple[datetime, str, int]
"""A kept checkpoint's time of signing, origin and size; the list is in this order."""


async def kept_checkpoints(
    connection: AsyncConnection[Any], limit: int, after: Place | None = None
) -> list[tuple[Place, SignedCheckpoint]]:
    """Published checkpoints, oldest first, from the start or after a place."""
    behind = after or ("-infinity", "", 0)
    cursor = await connection.execute(_KEPT_AFTER, (*behind, limit))
    return [
        ((signed_at, origin, size), _with(note, lines))
        for signed_at, origin, size, note, lines in await cursor.fetchall()
    ]


def _with(note: str, lines: str | None) -> SignedCheckpoint:
    try:
        return with_cosignatures(note, lines or "")
    except NoteError as error:
        raise LedgerMismatchError(f"a kept checkpoint cannot be read: {error}") from None

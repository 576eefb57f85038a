"""Disowns events that were not made with the ledger's keys, after an operator has looked at them.

The events stay in the log as evidence. From the `ledger.disowned` event on, every fold, projection
and query leaves them out. An event with a right MAC is never disowned, nor one from before the
ledger was authenticated: that would rewrite history.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from secrets_broker.ledger.commands import Record
from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.event_macs.acceptance import RANGES, Span, spans
from secrets_broker.ledger.event_types import LEDGER_DISOWNED
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Fold
from secrets_broker.ledger.transactions import Login, Transactions
from secrets_broker.ledger.transparency_log.frontier import missing_nodes, node_at

_COMPLETE: Final = """
    INSERT INTO ledger.nodes (level, index, hash) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING
"""
MAX_RANGES: Final = 400  # each some 30 bytes of the event's 16 KiB of details


class DisownRefusedError(LedgerError):
    """Positions that must not be disowned; nothing was recorded."""


@dataclass(frozen=True, slots=True)
class Disowned:
    """What was disowned, and by which event."""

    position: int
    ranges: tuple[Span, ...]


async def disown(login: Login, ranges: Sequence[Span], context: Context) -> Disowned:
    """Record that these events are not the ledger's.

    Raises DisownRefusedError, or LedgerUnavailableError. That is UnauthenticEventError if there
    are more such events than the ranges cover.
    """
    async with login.transactions() as work:
        merged = spans(sorted({p for first, last in ranges for p in range(first, last + 1)}))
        # Died after: they are of the tree as it stands, whatever it holds.
        await _complete_nodes(work, merged[0][0])
        fold = await work.begin([], set_aside=merged)
        await _check(work, fold, merged)
        details = {RANGES: [list(span) for span in merged]}
        outcome = fold.take(Record(type=LEDGER_DISOWNED, details=details), context)
        # Died before this commits: the ledger is refused as before, and this is run again. Died
        # after: every process leaves the events out from its next batch on.
        await work.commit(fold)
    return Disowned(outcome.position, merged)


async def _complete_nodes(work: Transactions, first: int) -> None:
    """Store the nodes that the forger left out; without them none above can be stored."""
    for level, index in await missing_nodes(work.connection, first):
        node = await node_at(work.connection, level, index)
        await work.connection.execute(_COMPLETE, (node.level, node.index, node.hash))


async def _check(work: Transactions, fold: Fold, ranges: Sequence[Span]) -> None:
    begun = fold.authenticity.begun
    if begun is None:
        raise DisownRefusedError(
            "the ledger is not authenticated, so no event can be told from another: run "
            "secrets-broker authenticate"
        )
    first, last = ranges[0][0], ranges[-1][1]
    if len(ranges) > MAX_RANGES:
        raise DisownRefusedError(f"at most {MAX_RANGES} ranges at a time")
    if first < begun:
        raise DisownRefusedError(
            f"position {first} is before the ledger was authenticated, at {begun}: what stood "
            "there was accepted then"
        )
    if last >= fold.append.first_position:
        raise DisownRefusedError(
            f"position {last} is not there: the last event is at {fold.append.first_position - 1}"
        )
    right = await work.rightly_made(ranges)
    if right:
        raise DisownRefusedError(
            f"the event at position {right[0]} was made with this ledger's keys: it stays"
        )
    gone = [span for span in ranges if _touches(fold, span)]
    if gone:
        raise DisownRefusedError(f"position {gone[0][0]} is disowned already")
    await work.check_around(ranges, fold.append.first_position)


def _touches(fold: Fold, span: Span) -> bool:
    known = fold.authenticity.disowned
    return any(span[0] <= last and first <= span[1] for first, last in known)

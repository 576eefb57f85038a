"""Demands MACs of a ledger that has none yet.

Such a ledger may hold a forgery. So an operator first reviews what will be believed, the grants and
the newest changes, and accepts it.
"""

from dataclasses import dataclass
from typing import Any, Final

from secrets_broker.ledger.access.grants import Granted
from secrets_broker.ledger.access.stored_grants import read_grants
from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.event_types import IS_CHANGE, IS_CONTROL
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.transactions import Login, Transactions
from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint

_CHANGES: Final = f"""
    SELECT position, at::text, type, host, purpose, version, actor, authn, ip FROM ledger.events
    WHERE {IS_CHANGE} ORDER BY position DESC LIMIT %(most)s
"""  # noqa: S608 - our own constants
_SINCE: Final = f"""
    SELECT min(position) FROM ledger.events
    WHERE position >= %(size)s AND ok AND ({IS_CONTROL} OR {IS_CHANGE})
"""  # noqa: S608 - our own constants


class ChangedMeanwhileError(LedgerError):
    """An event was appended that nobody has reviewed yet."""


@dataclass(frozen=True, slots=True)
class ChangeToReview:
    """An event that changed a credential, for review."""

    position: int
    at: str
    type: str
    host: str
    purpose: str
    version: int | None
    actor: str | None
    authn: str
    ip: str | None


@dataclass(frozen=True, slots=True)
class ToAccept:
    """What is believed once the ledger is authenticated."""

    size: int
    grants: tuple[Granted, ...]
    changes: tuple[ChangeToReview, ...]
    """The newest ones, newest first."""


async def authenticated_since(login: Login) -> tuple[int | None, int]:
    """The position from which MACs are demanded (None if they are not), and the ledger's size.

    Raises LedgerUnavailableError.
    """
    async with login.transactions() as work:
        fold = await work.begin([], begins=True)
        await work.give_up()
        return fold.authenticity.begun, fold.append.first_position


async def to_accept(login: Login, size: int, most: int) -> ToAccept:
    """The live grants and the newest changes; raises LedgerUnavailableError."""
    async with login.transactions() as work:
        grants = (await read_grants(work.connection)).by_id.values()
        rows = await work.fetch(_CHANGES, {"most": most})
    live = tuple(granted for granted in grants if granted.revoked_at is None)
    return ToAccept(size, live, tuple(ChangeToReview(*row) for row in rows))


async def authenticate(
    login: Login,
    size: int,
    context: Context,
    kept: SignedCheckpoint | None = None,
) -> int:
    """Demand MACs from the next event on, and return its position.

    The events below `size` were reviewed. Raises ChangedMeanwhileError if a grant or a credential
    was changed since, or LedgerUnavailableError.
    """
    async with login.transactions() as work:
        fold = await work.begin([], begins=True)
        await _refuse_unreviewed(work, size)
        outcome = fold.authenticate(context, _details(kept))
        # Died before this commits: the ledger is as it was. Died after: no event comes without a
        # right MAC any more, and a service of an earlier version gets 503.
        await work.commit(fold)
    return outcome.position


async def _refuse_unreviewed(work: Transactions, size: int) -> None:
    ((position,),) = await work.fetch(_SINCE, {"size": size})
    if position is not None:
        await work.give_up()
        raise ChangedMeanwhileError(
            f"the event at position {position} came meanwhile, and nobody has looked at it: run "
            "this again"
        )


def _details(kept: SignedCheckpoint | None) -> dict[str, Any]:
    """The event's details: the outside checkpoint that the ledger was compared with."""
    if kept is None:
        return {}
    return {"checkpoint": {"origin": kept.checkpoint.origin, "size": kept.checkpoint.size}}

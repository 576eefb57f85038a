"""Passwords out of the history: first on record that they left, then given out.

For each credential of a state whose body is there, a `credential.read` event names its id and
version, as a lookup's does, and its details say that it was a replay. A batch is one transaction
through the one write path; its passwords are released once it is committed.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from secrets_broker.ledger.commands import Reveal
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import DecryptionError
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Fold
from secrets_broker.ledger.transactions import Login, Transactions
from secrets_broker.projections.queries.replay import (
    FIRST,
    Credential,
    LastChange,
    Scope,
    Stored,
    bodies,
    changes,
    rows,
)

BATCH: Final = 100  # some ten milliseconds of the ledger's lock

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Revealed:
    """A credential as it was, and what was secret in it; `read` is the position of the event.

    Without an event the body was erased. With one and without a content it does not open, and
    the event says so.
    """

    credential: Credential
    read: int | None = None
    content: Content | None = field(default=None, repr=False)
    why: str | None = None


async def reveal(login: Login, context: Context, scope: Scope) -> AsyncIterator[list[Revealed]]:
    """Disclose a state, a batch at a time; what was given is on record.

    Raises LedgerUnavailableError; what was given until then is committed.
    """
    async with login.transactions() as work:
        found = await changes(work.fetch, scope, FIRST, BATCH)
        while found:
            yield await _batch(work, login.keyring, context, scope, found)
            found = await changes(work.fetch, scope, found[-1].name, BATCH)


async def _batch(
    work: Transactions,
    keyring: Keyring,
    context: Context,
    scope: Scope,
    found: Sequence[LastChange],
) -> list[Revealed]:
    fold = await work.begin([])
    # Under the lock: what an erasure took until now is not there, and no erasure comes between.
    stored = await bodies(work.fetch, keyring, found)
    made = await rows(work.fetch, found, stored)
    revealed = [
        _take(fold, context, scope, change, stored[change.position], credential)
        for change, credential in zip(found, made, strict=True)
    ]
    if fold.append.entries:
        # Died before this commits: no event, and no password was given out. Died after: the
        # events say that they were, although they were not; never the other way round.
        await work.commit(fold)
    else:
        await work.give_up()
    return revealed


def _take(
    fold: Fold,
    context: Context,
    scope: Scope,
    change: LastChange,
    stored: Stored,
    credential: Credential,
) -> Revealed:
    if stored.erased:
        return Revealed(credential)
    content, why = _open(change, stored)
    command = Reveal(
        host=change.host,
        purpose=change.purpose,
        credential_id=change.credential_id,
        version=change.version,
        at=scope.position,
        opened=content is not None,
    )
    outcome = fold.take(command, context)
    return Revealed(credential, outcome.position, content, why)


def _open(change: LastChange, stored: Stored) -> tuple[Content | None, str | None]:
    try:
        return stored.content(), None
    except DecryptionError as error:
        _log.error("credential_undisclosable", name=change.name, why=str(error))
        return None, str(error)

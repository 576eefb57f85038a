"""Keeps the fact that MACs are demanded where no restore of the database reaches.

A database restored to before `ledger.authenticated` has events without MACs, and says nothing about
MACs. So the fact is also kept beside LEDGER_CHECKPOINT_FILE.
"""

import structlog

from secrets_broker.ledger.errors import LedgerError, LedgerUnavailableError
from secrets_broker.ledger.event_macs.acceptance import Acceptance
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.rollback_detection.kept_facts import AuthenticatedFrom, KeptFacts

_log = structlog.get_logger(__name__)


class MacRequirement:
    """The fact, as one process knows and keeps it."""

    def __init__(self, file: CheckpointFile | None = None) -> None:
        self._file = file
        self._known: Acceptance | None = None

    def hold(self, found: Acceptance) -> None:
        """Keep the fact if a ledger with events demands MACs; cheap if it is known already.

        Raises LedgerUnavailableError if this ledger once demanded MACs, and does not now.
        """
        if self._known is not None and self._known.begun == found.begun:
            return
        kept = self._file.facts.read().authenticated_from if self._file else None
        if kept is not None and found.begun is None:
            raise LedgerUnavailableError(
                f"this ledger was authenticated from position {kept.position} on, and the database "
                "is from before that: run secrets-broker authenticate, which shows what to look at"
            )
        if found.begun is None:
            _log.warning(
                "ledger_not_authenticated",
                consequence="anybody with the database's login can append events",
                run="secrets-broker authenticate",
            )
        elif self._file:
            _keep(self._file, found)
        self._known = found


def _keep(file: CheckpointFile, found: Acceptance) -> None:
    def change(facts: KeptFacts) -> KeptFacts:
        assert found.begun is not None and found.ledger is not None  # noqa: S101
        fact = AuthenticatedFrom(found.begun, found.ledger)
        return facts.with_authenticated(fact)

    try:
        # Died before: the next process keeps it. Died after: it is kept.
        file.facts.change(change)
    except (OSError, LedgerError) as error:
        _log.error("authenticated_not_kept", why=str(error))

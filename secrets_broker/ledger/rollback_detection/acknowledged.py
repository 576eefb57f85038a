"""Keeps what this process has acknowledged in a file that survives its death."""

import structlog

from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.rollback_detection.kept_facts import Mark, MarkFile
from secrets_broker.ledger.tree_state import TreeState

_log = structlog.get_logger(__name__)


class Acknowledged:
    """Records what this process acknowledges, if it has a checkpoint file."""

    def __init__(self, file: CheckpointFile | None = None, origin: str | None = None) -> None:
        self._file = file
        self._origin = origin
        self._mark: MarkFile | None = None
        self._failed = False

    def keep(self, committed: TreeState) -> None:
        """Write it down before any caller is answered; a failure is logged once."""
        mark = Mark.of(committed, self._origin)
        if self._file is None or mark is None:
            return
        try:
            if self._mark is None:
                self._file.facts.gather()
                self._mark = self._file.facts.new_mark()
            self._mark.write(mark)
            self._failed = False
        except (OSError, LedgerError) as error:
            if not self._failed:
                _log.error("acknowledged_not_kept", why=str(error))
            self._failed = True

    def close(self) -> None:
        """Store it among the facts, durably."""
        mark, self._mark = self._mark, None
        if mark is None or self._file is None:
            return
        mark.close()
        try:
            self._file.facts.gather()
        except (OSError, LedgerError) as error:
            _log.error("acknowledged_not_kept", why=str(error))

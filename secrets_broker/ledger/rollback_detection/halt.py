"""The halt: writer, checkpointer and submitter of a process stop together.

After a mismatch nothing is written, signed or submitted any more, whichever of them found it. With
LEDGER_CHECKPOINT_FILE the stop is kept beside that file. Other workers read it before their next
batch, and later processes at their start, until `secrets-broker restored`.
"""

import os
from typing import Final

import structlog

from secrets_broker.ledger.errors import LedgerError, LedgerMismatchError
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.rollback_detection.kept_facts import KeptFacts, Stop, stop_now
from secrets_broker.ledger.tree_state import TreeState

_log = structlog.get_logger(__name__)

_NO_FILE: Final = (0, 0, 0)


class Halt:
    """The halt of one process."""

    def __init__(self, file: CheckpointFile | None = None) -> None:
        self._file = file
        self._why: str | None = None
        self._looked_at: tuple[int, int, int] | None = None
        self.durable = TreeState()
        """The newest tree that this process knows to be durable."""

    @property
    def is_stopped(self) -> bool:
        """Whether it has stopped, without reading the kept facts."""
        return self._why is not None

    def check(self) -> None:
        """Raise LedgerMismatchError if this process, or another one of this machine, stopped.

        Raises LedgerUnavailableError if the kept facts cannot be read.
        """
        if self._why is None and self._file:
            self._look(self._file)
        self.check_own()

    def check_own(self) -> None:
        """As `check`, but only for this process."""
        if self._why is not None:
            raise LedgerMismatchError(self._why)

    def stop(self, why: LedgerMismatchError) -> None:
        """Stop for good, and keep the stop with the durable tree state."""
        if self._why is not None:
            return
        self._why = str(why)
        _log.critical("ledger_mismatch", why=self._why)
        if self._file:
            _keep(self._file, why, stop_now(self._why, self.durable))

    def _look(self, file: CheckpointFile) -> None:
        now = _stamp(file)
        if now == self._looked_at:
            return
        stopped = file.facts.read().stopped
        self._looked_at = now
        if stopped:
            self._why = stop_message(stopped)
            _log.critical("ledger_mismatch", why=self._why)


def stop_message(stopped: Stop) -> str:
    """The error text that later processes get from a kept stop."""
    return (
        f"stopped since {stopped.at}, which is kept beside LEDGER_CHECKPOINT_FILE until somebody "
        f"has looked and run secrets-broker restored: {stopped.why}"
    )


def _keep(file: CheckpointFile, why: LedgerMismatchError, stopped: Stop) -> None:
    def change(facts: KeptFacts) -> KeptFacts:
        # The first stop stays: it is closest to the cause.
        return facts if facts.stopped else facts.with_stop(stopped)

    try:
        # Died before: this process has ended, and the next one compares again. Died after: the
        # next one stops, whatever it finds.
        file.facts.change(change)
        if why.evidence:
            file.keep_evidence(why.evidence)
    except (OSError, LedgerError) as error:
        _log.critical("stop_not_kept", why=str(error), consequence="a restart may forget it")


def _stamp(file: CheckpointFile) -> tuple[int, int, int]:
    try:
        found = os.stat(file.facts.path)  # noqa: PTH116 - before each batch: a Path costs more
    except FileNotFoundError:
        return _NO_FILE
    return found.st_ino, found.st_mtime_ns, found.st_size

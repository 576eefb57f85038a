"""LEDGER_CHECKPOINT_FILE: the newest checkpoint, kept outside the database. It never goes back."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.rollback_detection import whole_files
from secrets_broker.ledger.rollback_detection.kept_facts import FactsFile
from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint
from secrets_broker.ledger.transparency_log.note import NoteError


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A checkpoint, and the facts beside it."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> "CheckpointFile":
        """The file at a path; a link is followed, not replaced.

        Raises LedgerUnavailableError.
        """
        try:
            return cls(path.resolve())
        except (OSError, RuntimeError):
            raise LedgerUnavailableError(f"{path} is a link that leads nowhere") from None

    @property
    def facts(self) -> FactsFile:
        """The facts beside it."""
        return FactsFile(self.path)

    def read(self) -> SignedCheckpoint | None:
        """The checkpoint in it; None if there is no file. Raises LedgerUnavailableError."""
        try:
            content = whole_files.read_regular(self.path)
            return None if content is None else SignedCheckpoint.parse(content.decode())
        except OSError as error:
            raise LedgerUnavailableError(f"{self.path}: {error.strerror}") from None
        except (UnicodeDecodeError, NoteError) as error:
            raise LedgerUnavailableError(
                f"{self.path} holds no checkpoint: {error}. Put back the one that was there, or "
                "one that somebody else kept"
            ) from None

    def check_writable(self) -> None:
        """Raise OSError if no checkpoint could be written there."""
        with whole_files.exclusive(self.path):
            whole_files.check_writable(self.path)

    def replace(self, before: SignedCheckpoint | None, signed: SignedCheckpoint) -> bool:
        """Replace the checkpoint `before` by one that extends it; tell whether it was replaced.

        It is not if another process has written a third one meanwhile: that must be compared
        first. Raises OSError, or LedgerUnavailableError.
        """
        with whole_files.exclusive(self.path):
            if self.read() != before:
                return False
            # Died before: the file holds the checkpoint before, which the ledger extends too.
            # Died after: it holds this one, which was published.
            whole_files.replace(self.path, str(signed).encode())
            return True

    def keep_evidence(self, note: str) -> None:
        """Keep a contradicting checkpoint beside the file; raises OSError."""
        digest = sha256(note.encode()).hexdigest()[:16]
        path = self.path.with_name(f"{self.path.name}.refused-{digest}")
        with whole_files.exclusive(self.path):
            if not path.exists():
                whole_files.replace(path, note.encode())

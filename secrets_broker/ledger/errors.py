"""What can go wrong in the ledger: one tree, so that one place can map it to answers."""

from dataclasses import dataclass


class LedgerError(Exception):
    """Base of everything that the ledger raises."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """A field and what is wrong with it, in words that never hold the value."""

    field: str
    message: str


class InvalidCommandError(LedgerError):
    """A command that breaks a rule; nothing was recorded."""

    def __init__(self, *errors: FieldError) -> None:
        super().__init__(
            "; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in errors)
        )
        self.errors = errors


class UnfitKeyError(LedgerError, ValueError):
    """A key that is too short, or would not come in the same whichever way; it is not repeated."""


class DecryptionError(LedgerError):
    """A ciphertext that does not open: another key, another place, or it was changed."""


class CredentialUndisclosableError(LedgerError):
    """What is stored of a credential does not follow from the ledger; it is not given out."""


class LedgerUnavailableError(LedgerError):
    """The ledger could not be written; nothing was recorded and nothing is served."""


class WrongKeyError(LedgerUnavailableError):
    """The configured key is not the one that this ledger's data keys are wrapped with."""


class KmsError(LedgerUnavailableError):
    """A key management service did not wrap or unwrap a KEK; the text says what it answered."""


class KmsUrlError(LedgerError, ValueError):
    """A SECRETS_KMS that cannot be read; the text never repeats it, since it may hold a secret."""


class RotationRefusedError(LedgerError):
    """A rotation that must not begin; nothing was touched."""


class BusyError(LedgerError):
    """Another run of the same tool is at work; the text says whose."""


class OutcomeUnknownError(LedgerUnavailableError):
    """The connection was lost while committing: the event may or may not be recorded."""


class QueueFullError(LedgerUnavailableError):
    """More commands wait than the writer accepts; nothing was recorded."""


class LedgerMismatchError(LedgerUnavailableError):
    """The ledger is shorter than, or differs from, what this process has seen of it."""

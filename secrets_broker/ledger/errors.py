"""What can go wrong in the ledger: one tree, so that one place can map it to answers."""

from dataclasses import dataclass
from typing import Self


class LedgerError(Exception):
    """Base of everything that the ledger raises."""


class FoundError(LedgerError):
    """What was found of the ledger, as opposed to what kept us from finding out."""


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


class DecryptionError(FoundError):
    """A ciphertext that does not open: another key, another place, or it was changed."""


class CredentialUndisclosableError(FoundError):
    """What is stored of a credential does not follow from the ledger; it is not given out."""


class LedgerUnavailableError(LedgerError):
    """The ledger could not be written; nothing was recorded and nothing is served."""

    def again(self) -> Self:
        """The same for another caller: one that is raised again and again grows its traceback."""
        return type(self)(str(self))


class NotGrantedError(LedgerUnavailableError):
    """The login lacks the role that the ledger asks of it; the text is the line to run."""


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


class LedgerMismatchError(LedgerUnavailableError, FoundError):
    """The ledger is shorter than, or differs from, what is known of it."""

    def __init__(self, why: str, evidence: str | None = None) -> None:
        super().__init__(why)
        self.evidence = evidence
        """The checkpoint, a note, that the database has and should not have."""


class UnauthenticEventError(LedgerMismatchError):
    """The ledger holds an event that was not made with its keys; the text says where.

    Nothing is recorded until somebody has looked at it and disowned it.
    """

    def __init__(self, first: int, last: int, what: str = "") -> None:
        which = f"{first}" if first == last else f"{first}-{last}"
        where = f"the event at position {first}" if first == last else f"the events {which}"
        verb = "was" if first == last else "were"
        super().__init__(
            what
            or f"{where} {verb} not made with this ledger's keys: somebody else has appended. "
            "Nothing is served until a person has looked: run secrets-broker verify, then "
            f"secrets-broker disown {which} --reason …"
        )
        self.first = first
        self.last = last

    def again(self) -> Self:
        """See the base."""
        return type(self)(self.first, self.last, str(self))


class RowsMissingError(LedgerUnavailableError):
    """The database did not store exactly what was to be recorded; nothing was committed."""


class LedgerAheadError(LedgerUnavailableError):
    """The last event is of a time that the database's clock has not reached by far."""

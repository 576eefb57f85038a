"""The ledger's errors: one class tree, so that one place can map them to answers."""

from dataclasses import dataclass
from typing import Self


class LedgerError(Exception):
    """Base of everything that the ledger raises."""


class FoundError(LedgerError):
    """A finding about the ledger, as opposed to a failure to find out."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """A field and what is wrong with it; the text never holds the value."""

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
    """A key that is too short, or that not all ways deliver unchanged; the text omits it."""


class DecryptionError(FoundError):
    """A ciphertext that does not open: it was changed, or belongs to another key or place."""


class CredentialUndisclosableError(FoundError):
    """The stored credential does not follow from the ledger; it is not disclosed."""


class LedgerUnavailableError(LedgerError):
    """The ledger could not be written; nothing was recorded and nothing is served."""

    def again(self) -> Self:
        """A copy for another caller: raising one error repeatedly grows its traceback."""
        return type(self)(str(self))


class NotGrantedError(LedgerUnavailableError):
    """The login lacks a role that the ledger needs; the text is the line to run."""


class WrongKeyError(LedgerUnavailableError):
    """The configured key is not the one that this ledger's data keys are wrapped with."""


class KmsError(LedgerUnavailableError):
    """A key management service did not wrap or unwrap a KEK; the text says what it answered."""


class KmsUrlError(LedgerError, ValueError):
    """A malformed SECRETS_KMS; the text never repeats it, since it may hold a secret."""


class RotationRefusedError(LedgerError):
    """A rotation that must not begin; nothing was changed."""


class BusyError(LedgerError):
    """The same tool is already running; the text says whose run it is."""


class OutcomeUnknownError(LedgerUnavailableError):
    """The connection was lost while committing: the event may or may not be recorded."""


class QueueFullError(LedgerUnavailableError):
    """Too many commands wait for the writer; nothing was recorded."""


class LedgerMismatchError(LedgerUnavailableError, FoundError):
    """The ledger is shorter than what is known of it, or differs from it."""

    def __init__(self, why: str, evidence: str | None = None) -> None:
        super().__init__(why)
        self.evidence = evidence
        """The signed note of the checkpoint that the database should not have."""


class UnauthenticEventError(LedgerMismatchError):
    """The ledger holds an event that was not made with its keys; the text says where.

    Nothing is recorded until an operator has looked at it and disowned it.
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
        """As the base class."""
        return type(self)(self.first, self.last, str(self))


class RowsMissingError(LedgerUnavailableError):
    """The database did not store exactly what was to be recorded; nothing was committed."""


class LedgerAheadError(LedgerUnavailableError):
    """The last event's time is far ahead of the database's clock."""

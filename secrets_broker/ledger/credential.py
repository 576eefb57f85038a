"""One credential as a state machine: its state, `decide` and `evolve`.

Both are pure. `decide` says which event a command becomes in a state. `evolve` says which state
follows from an event. They know no clock, no key and no database.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, assert_never

from secrets_broker.ledger import event_types
from secrets_broker.ledger.commands import (
    CredentialCommand,
    Delete,
    Erase,
    ImportAccess,
    ImportCredential,
    Lookup,
    Record,
    Rekey,
    Reveal,
    Upsert,
)
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.encoding import name_problem
from secrets_broker.ledger.errors import FieldError, InvalidCommandError
from secrets_broker.ledger.events import Event

NOT_FOUND = "not_found"
EXPIRED = "expired"
DECRYPT_FAILED = "decrypt_failed"
ALREADY_THERE = "already_there"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LiveCredential:
    """A credential that a lookup finds, as its last state-changing event left it."""

    id: int
    version: int
    position: int
    data_key: str


State = LiveCredential | None
"""None if there is no such credential, or no longer."""

INITIAL: State = None


class Undisclosable:
    """Stands for a content that must not be served, because it does not follow from the ledger."""


UNDISCLOSABLE = Undisclosable()
Opened = Content | Undisclosable | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a command becomes: the facts of its event, and the content of its body."""

    type: str
    credential_id: int | None = None
    version: int | None = None
    error: str | None = None
    occurred_at: datetime | None = None
    details: dict[str, Any] | None = None
    content: Content | None = field(default=None, repr=False)
    new_key: bool = False


def decide(
    state: State,
    command: CredentialCommand,
    position: int,
    opened: Opened = None,
    *,
    at: datetime,
) -> Decision:
    """Say which event the command becomes at this position and time.

    Raises InvalidCommandError, and makes no event, for an upsert of a new name that people could
    confuse with another.

    `opened` is the content that a lookup or a rekey found in the projection, or None. It is
    UNDISCLOSABLE if the credential's key or row is not what the ledger says.
    """
    match command:
        case Upsert():
            return _store(state, command, position, opened)
        case Lookup():
            return _disclose(state, opened, at)
        case Delete():
            return _delete(state)
        case Rekey():
            return _rekey(state, command, opened)
        case ImportCredential():
            return _import(state, command, position)
        case Erase() | ImportAccess() | Reveal() | Record():
            return _recorded(command)
        case _:
            assert_never(command)


def evolve(state: State, event: Event, position: int) -> State:
    """Say which state follows when this event stands at this position."""
    if not event.ok or event.type not in event_types.CHANGES:
        return state
    if event.body is None or event.credential_id is None or event.version is None:
        return None
    return LiveCredential(event.credential_id, event.version, position, event.body.key)


def _recorded(command: Erase | ImportAccess | Reveal | Record) -> Decision:
    """Record what was found or done before the command was made."""
    match command:
        case Erase():
            return Decision(
                event_types.ERASED, command.credential_id, command.version, details=command.details
            )
        case ImportAccess():
            return _import_access(command)
        case Reveal():
            return _reveal(command)
        case Record():
            return Decision(command.type, details=command.details)


def _store(state: State, command: Upsert, position: int, opened: Opened) -> Decision:
    if state is None:
        _check_new_name(command)
    if state is not None and isinstance(opened, Undisclosable):
        return Decision(event_types.UPDATED, state.id, state.version, error=DECRYPT_FAILED)
    if state is None:
        # An id made from the position is never used twice; the database enforces that.
        return Decision(event_types.CREATED, position + 1, 1, content=command)
    return Decision(event_types.UPDATED, state.id, state.version + 1, content=command)


def _check_new_name(command: Upsert) -> None:
    # Only for a new name: an old one must stay usable for lookup, change and deletion.
    for field_name, text in (("host", command.host), ("purpose", command.purpose)):
        if problem := name_problem(text):
            raise InvalidCommandError(FieldError(field_name, f"{problem}, where it is a new name"))


def _disclose(state: State, opened: Opened, at: datetime) -> Decision:
    credential_id, version = (state.id, state.version) if state else (None, None)
    if isinstance(opened, Undisclosable):
        return Decision(event_types.READ, credential_id, version, error=DECRYPT_FAILED)
    if state is None or opened is None:
        return Decision(event_types.READ, error=NOT_FOUND)
    if opened.expires_at is not None and at >= opened.expires_at:
        return Decision(event_types.READ, credential_id, version, error=EXPIRED)
    return Decision(event_types.READ, credential_id, version)


def _reveal(command: Reveal) -> Decision:
    # An old version: neither the live credential nor its expires_at matters.
    return Decision(
        event_types.READ,
        command.credential_id,
        command.version,
        error=None if command.opened else DECRYPT_FAILED,
        details=command.details,
    )


def _delete(state: State) -> Decision:
    if state is None:
        return Decision(event_types.DELETED, error=NOT_FOUND)
    return Decision(event_types.DELETED, state.id, state.version)


def _rekey(state: State, command: Rekey, opened: Opened) -> Decision:
    if state is None:
        return Decision(event_types.REKEYED, error=NOT_FOUND)
    if not isinstance(opened, Content):
        return Decision(event_types.REKEYED, state.id, state.version, error=DECRYPT_FAILED)
    return Decision(
        event_types.REKEYED,
        state.id,
        state.version,
        details={"content": command.content},
        content=opened,
        new_key=True,
    )


def _import(state: State, command: ImportCredential, position: int) -> Decision:
    imported = Decision(
        event_types.IMPORTED,
        position + 1,
        1,
        occurred_at=command.occurred_at,
        details=command.details,
        content=command.content,
    )
    if state is None:
        return imported
    return Decision(event_types.IMPORTED, state.id, error=ALREADY_THERE, details=command.details)


def _import_access(command: ImportAccess) -> Decision:
    return Decision(
        event_types.ACCESS_IMPORTED,
        command.credential_id,
        error=None if command.ok else FAILED,
        occurred_at=command.occurred_at,
        details=command.details,
    )

"""From the commands that wait to what one transaction appends: decide, seal, encode, hash.

A fold does no I/O. It is given what was read under the lock and takes the commands in order,
each seeing what those before it did. Keys and nonces are drawn here, never in `decide`.
"""

from base64 import b64encode
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secrets_broker.ledger import events
from secrets_broker.ledger.body import Body, Place, open_content, seal_body, seal_content
from secrets_broker.ledger.commands import Command, Content, Lookup, Name
from secrets_broker.ledger.credential import (
    UNDISCLOSABLE,
    Decision,
    Live,
    Opened,
    State,
    decide,
    evolve,
)
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.errors import DecryptionError, LedgerUnavailableError
from secrets_broker.ledger.events import BodyReference, Context, Event, encode_entry
from secrets_broker.ledger.keyring import DataKey, Kek, Keyring
from secrets_broker.ledger.merkle import Node, leaf_hash
from secrets_broker.ledger.projection import Change, Row
from secrets_broker.ledger.seen import Seen

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was read under the lock."""

    clock: datetime
    last_at: datetime | None
    seen: Seen
    active_kek: str | None
    states: dict[Name, State]
    data_keys: dict[str, DataKey] = field(repr=False)
    rows: dict[Name, Row] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command came to; to be released only once its event is committed."""

    position: int
    error: str | None = None
    credential_id: int | None = None
    version: int | None = None
    content: Content | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class StoredBody:
    """A body's ciphertext, with the position and the data key that it belongs to."""

    position: int
    key: str
    ciphertext: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Append:
    """What one transaction writes."""

    first_position: int
    entries: list[bytes]
    leaves: list[bytes]
    nodes: list[Node]
    bodies: list[StoredBody]
    data_keys: list[DataKey]
    changes: list[Change]
    seen: Seen


class Fold:
    """Takes commands one after another; `finish` gives what they append together."""

    def __init__(self, snapshot: Snapshot, keyring: Keyring) -> None:
        active = keyring.get(snapshot.active_kek)
        if active is None:
            raise LedgerUnavailableError(
                "the ledger's active KEK is not among the keys that this process was given"
            )
        self._active: Kek = active
        self._keyring = keyring
        self._snapshot = snapshot
        self._at = rfc3339(max(snapshot.clock, snapshot.last_at or snapshot.clock))
        self._states = dict(snapshot.states)
        self._rows = dict(snapshot.rows)
        self._keys = dict(snapshot.data_keys)
        self._entries: list[bytes] = []
        self._leaves: list[bytes] = []
        self._bodies: list[StoredBody] = []
        self._new_keys: list[DataKey] = []
        self._changes: list[Change] = []

    @property
    def position(self) -> int:
        """Where the next event will stand."""
        return self._snapshot.seen.size + len(self._entries)

    def take(self, command: Command, context: Context) -> Outcome:
        """Append the command's event; raises InvalidCommandError, and then appends nothing."""
        position, name = self.position, command.name
        state = self._states.get(name) if name else None
        opened = self._open(name, state) if isinstance(command, Lookup) and name else None
        decision = decide(state, command, position, opened)
        if decision.content is None or name is None:
            event = self._event(decision, context, name)
            self._append(event)
        else:
            event = self._append_sealed(decision, context, name, decision.content, state)
        if name:
            self._evolve(name, state, event, position)
        disclosed = opened if decision.error is None and isinstance(opened, Content) else None
        return Outcome(
            position, decision.error, decision.credential_id, decision.version, disclosed
        )

    def finish(self) -> Append:
        """What the commands taken so far append."""
        seen = self._snapshot.seen
        _, nodes = seen.frontier.extend(self._leaves)
        return Append(
            first_position=seen.size,
            entries=self._entries,
            leaves=self._leaves,
            nodes=nodes,
            bodies=self._bodies,
            data_keys=self._new_keys,
            changes=self._changes,
            seen=seen.extend(self._leaves),
        )

    def _open(self, name: Name, state: State) -> Opened:
        row = self._rows.get(name)
        if state is None and row is None:
            return None
        try:
            return self._open_row(state, row)
        except DecryptionError as error:
            # An alarm, not a request's line: somebody or something changed what is served.
            _log.error(
                "credential_undisclosable", host=name[0], purpose=name[1], why=str(error)
            )
            return UNDISCLOSABLE

    def _open_row(self, state: State, row: Row | None) -> Content:
        if state is None or row is None or state != _says(row):
            raise DecryptionError("the projection's row is not the ledger's last change")
        cipher = self._cipher(state)
        return open_content(cipher, Place(*row.name, row.credential_id, row.version), row.body)

    def _cipher(self, state: Live) -> AESGCM:
        key = self._keys.get(state.data_key)
        if key is None or key.credential_id != state.id:
            raise DecryptionError("the credential's data key is not there")
        return self._keyring.unwrap(key)

    def _append_sealed(
        self, decision: Decision, context: Context, name: Name, content: Content, state: State
    ) -> Event:
        assert decision.credential_id is not None and decision.version is not None  # noqa: S101
        key, cipher = self._key_for(state, decision.credential_id)
        place = Place(*name, decision.credential_id, decision.version)
        body = seal_content(cipher, place, content)
        ciphertext = seal_body(cipher, decision.type, place, body)
        digest = b64encode(sha256(ciphertext).digest()).decode("ascii")
        event = self._event(decision, context, name, BodyReference(key.id, digest))
        position = self.position
        self._append(event)
        self._bodies.append(StoredBody(position, key.id, ciphertext))
        if key.id not in self._keys:
            self._keys[key.id] = key
            self._new_keys.append(key)
        self._project(name, event, position, body)
        return event

    def _key_for(self, state: State, credential_id: int) -> tuple[DataKey, AESGCM]:
        if state is None:
            return self._active.new_data_key(credential_id)
        return self._keys[state.data_key], self._cipher(state)

    def _event(
        self,
        decision: Decision,
        context: Context,
        name: Name | None,
        body: BodyReference | None = None,
    ) -> Event:
        return Event(
            type=decision.type,
            at=self._at,
            occurred_at=rfc3339(decision.occurred_at) if decision.occurred_at else None,
            actor=context.actor,
            authn=context.authn,
            ip=context.ip,
            request_id=context.request_id,
            reason=context.reason,
            host=name[0] if name else None,
            purpose=name[1] if name else None,
            credential_id=decision.credential_id,
            version=decision.version,
            ok=decision.error is None,
            error=decision.error,
            details=events.check_details(decision.details) if decision.details else None,
            body=body,
        )

    def _append(self, event: Event) -> None:
        entry = encode_entry(event)
        self._entries.append(entry)
        self._leaves.append(leaf_hash(entry))

    def _evolve(self, name: Name, state: State, event: Event, position: int) -> None:
        after = evolve(state, event, position)
        if after is None and state is not None:
            self._project(name, event, position, None)
        self._states[name] = after

    def _project(self, name: Name, event: Event, position: int, body: Body | None) -> None:
        self._changes.append(Change(name, event, position, body))
        self._rows.pop(name, None)
        if body is not None:
            place = (event.credential_id or 0, event.version or 0)
            key = event.body.key if event.body else ""
            self._rows[name] = Row(name, *place, position, key, body)


def _says(row: Row) -> Live:
    return Live(row.credential_id, row.version, row.position, row.data_key)

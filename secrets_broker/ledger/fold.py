"""Turns waiting commands into what one transaction appends: decide, seal, encode, hash.

A fold does no I/O. It starts from what was read under the lock and takes the commands in order.
Each command sees the effects of those before it. Keys and nonces are drawn here, never in `decide`.
"""

from base64 import b64encode
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secrets_broker.ledger.access import grants as granting
from secrets_broker.ledger.access.grant_commands import Enter, GrantCommand
from secrets_broker.ledger.access.grants import Grants
from secrets_broker.ledger.access.judgement import denied, judge, proven
from secrets_broker.ledger.access.quota import Meters, Use
from secrets_broker.ledger.access.rights import Refusal
from secrets_broker.ledger.append import Append, StoredBody
from secrets_broker.ledger.commands import Command, Lookup, Name, Record, Rekey, Upsert
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.credential import (
    INITIAL,
    UNDISCLOSABLE,
    Decision,
    LiveCredential,
    Opened,
    State,
    decide,
    evolve,
)
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.encryption.body import (
    Body,
    CiphertextPlace,
    open_content,
    seal_body,
    seal_content,
)
from secrets_broker.ledger.encryption.event_key import NO_MAC, EventKey, new_ledger_id
from secrets_broker.ledger.encryption.keyring import ACTIVE, PREPARED, DataKey, Kek, Keyring
from secrets_broker.ledger.errors import (
    DecryptionError,
    LedgerAheadError,
    LedgerUnavailableError,
)
from secrets_broker.ledger.event_macs import acceptance as authenticity
from secrets_broker.ledger.event_macs.acceptance import NEVER, Acceptance
from secrets_broker.ledger.event_types import (
    CLAIM,
    ERASED,
    LEDGER_AUTHENTICATED,
    LEDGER_DISOWNED,
    TRUST,
)
from secrets_broker.ledger.events import (
    BodyReference,
    Context,
    Event,
    check_said,
    encode_entry,
)
from secrets_broker.ledger.projection_protocol import Change, Row
from secrets_broker.ledger.tree_state import TreeState

_log = structlog.get_logger(__name__)

# The database has the same limit. A failover to a slower clock must not block appends, and a clock
# that was a year ahead must be noticed.
MAX_AHEAD: Final = timedelta(minutes=5)
_OURSELVES: Final = Context(actor=None, authn="none")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was read under the lock."""

    clock: datetime
    last_at: datetime | None
    tree_state: TreeState
    keks: dict[str, str]
    """The state of every KEK that is not retired, by its id."""
    states: dict[Name, State] = field(default_factory=dict)
    data_keys: dict[str, DataKey] = field(default_factory=dict, repr=False)
    rows: dict[Name, Row] = field(default_factory=dict, repr=False)
    grants: Grants = field(default_factory=Grants, repr=False)
    meters: Meters = field(default_factory=Meters, repr=False)
    authenticity: Acceptance = NEVER
    event_key: EventKey | None = None
    """What MACs are made with now; None in a ledger that is not authenticated."""
    last_mac: bytes = NO_MAC


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a command; released only once its event is committed."""

    position: int
    error: str | None = None
    credential_id: int | None = None
    version: int | None = None
    content: Content | None = field(default=None, repr=False)
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class _Sealed:
    key: DataKey
    body: Body
    ciphertext: bytes = field(repr=False)

    @property
    def reference(self) -> BodyReference:
        digest = sha256(self.ciphertext).digest()
        return BodyReference(self.key.id, b64encode(digest).decode("ascii"))


class Fold:
    """Takes commands one after another; `append` collects what they write."""

    def __init__(self, snapshot: Snapshot, keyring: Keyring) -> None:
        _check_time(snapshot)
        self.append = Append(snapshot.tree_state, snapshot.event_key, snapshot.last_mac)
        self.authenticity = snapshot.authenticity
        self._keyring = keyring
        self._active = _active(snapshot, keyring)
        # The ledger's time never runs backwards, whatever the clock does.
        self._at = max(snapshot.clock, snapshot.last_at or snapshot.clock)
        self._at_text = rfc3339(self._at)
        self._states = dict(snapshot.states)
        self._rows = dict(snapshot.rows)
        self._keys = dict(snapshot.data_keys)
        self._grants = snapshot.grants
        self._meters = snapshot.meters
        if not snapshot.tree_state.size:
            self.authenticate(_OURSELVES)  # a new ledger demands MACs from its first event

    @property
    def at(self) -> datetime:
        """The time of every event of this fold."""
        return self._at

    def authenticate(self, context: Context, details: dict[str, Any] | None = None) -> Outcome:
        """Demand MACs from here on, and draw a fresh event key for them."""
        ledger = self.authenticity.ledger or new_ledger_id()
        key = self._begin_event_key(ledger)
        named = {authenticity.LEDGER: ledger, authenticity.KEY: key, **(details or {})}
        return self.take(Record(type=LEDGER_AUTHENTICATED, details=named), context)

    def begin_event_key(self) -> dict[str, str]:
        """Draw a fresh event key; the next event must have the returned members in its details.

        Draws nothing, and returns {}, if the ledger is not authenticated.
        """
        ledger = self.authenticity.ledger
        return {authenticity.KEY: self._begin_event_key(ledger)} if ledger else {}

    def _begin_event_key(self, ledger: str) -> str:
        key = EventKey.random(ledger)
        self.append.begin_event_key(key, self._active)
        return key.id

    def take(self, command: Command, context: Context) -> Outcome:
        """Append the command's event; raises InvalidCommandError, and then appends nothing.

        If the caller is not allowed the command, append the event of the refusal.
        """
        refusal = judge(self._grants, self._meters, command, context, self._at)
        if refusal:
            return self._refuse(command, context, refusal)
        context = proven(self._grants, context)
        if isinstance(command, GrantCommand):
            return self._change_grants(command, context)
        position, name = self.append.position, command.name
        state = self.state(name) if name else INITIAL
        opened = self._open(command, state)
        decision = decide(state, command, position, opened, at=self._at)
        sealed = self._seal(decision, name, state)
        event = self._event(decision, context, name, sealed)
        self._record(event, encode_entry(event), name, state, sealed)
        self._meter(command, context, position)
        outcome = Outcome(position, decision.error, decision.credential_id, decision.version)
        if isinstance(command, Lookup) and isinstance(opened, Content) and outcome.error is None:
            return replace(outcome, content=opened)
        return outcome

    def enter(self, command: Enter, context: Context) -> Outcome | None:
        """Append an event if the caller is refused; else append none and return None."""
        refusal = judge(self._grants, self._meters, command, context, self._at)
        return self._refuse(command, context, refusal) if refusal else None

    def _meter(self, command: Command, context: Context, position: int) -> None:
        granted = self._grants.of(context.subject) if context.subject else None
        if granted is not None:
            host = command.host if isinstance(command, Lookup) else None
            self._meters.add(granted.id, Use(position, self._at, host))

    def _refuse(self, command: Command | Enter, context: Context, refusal: Refusal) -> Outcome:
        position = self.append.position
        decision, named = denied(command, context, refusal)
        event = self._event(decision, named, command.name, None)
        self.append.add_entry(encode_entry(event))
        return Outcome(position, refusal.error, refusal=refusal)

    def _change_grants(self, command: GrantCommand, context: Context) -> Outcome:
        position = self.append.position
        decision = granting.decide(self._grants, command, self._at)
        event = self._event(decision, context, None, None)
        self.append.add_entry(encode_entry(event))
        details = decision.details or {}
        self._grants = granting.evolve(self._grants, event.type, details, position, event.at)
        return Outcome(position)

    def state(self, name: Name) -> State:
        """The state of a name that was read, after the commands so far."""
        return self._states.get(name, INITIAL)

    def _open(self, command: Command, state: State) -> Opened:
        try:
            if isinstance(command, Lookup | Rekey):
                return self._open_row(state, self._rows.get(command.name))
            if isinstance(command, Upsert) and state is not None:
                self._cipher(state)  # without its key there can be no next version
        except DecryptionError as error:
            # Logged as an alarm: somebody changed what is stored.
            _log.error("credential_undisclosable", name=command.name, why=str(error))
            return UNDISCLOSABLE
        return None

    def _open_row(self, state: State, row: Row | None) -> Content | None:
        if state is None and row is None:
            return None
        if state is None or row is None or row.state != state:
            raise DecryptionError("the projection's row is not the ledger's last change")
        place = CiphertextPlace(*row.name, state.id, state.version)
        return open_content(self._cipher(state), place, row.body)

    def _cipher(self, state: LiveCredential) -> AESGCM:
        key = self._keys.get(state.data_key)
        if key is None or key.credential_id != state.id:
            raise DecryptionError("the credential's data key is not there")
        return self._keyring.unwrap(key)

    def _seal(self, decision: Decision, name: Name | None, state: State) -> _Sealed | None:
        if decision.content is None or name is None:
            return None
        place = CiphertextPlace(*name, decision.credential_id or 0, decision.version or 0)
        if state is None or decision.new_key:
            key, cipher = self._active.new_data_key(place.credential_id)
        else:
            key, cipher = self._keys[state.data_key], self._cipher(state)
        body = seal_content(cipher, place, decision.content)
        return _Sealed(key, body, seal_body(cipher, decision.type, place, body))

    def _event(
        self, decision: Decision, context: Context, name: Name | None, sealed: _Sealed | None
    ) -> Event:
        host, purpose = name or (None, None)
        details = decision.details
        if context.claim is not None:
            details = {**(details or {}), CLAIM: context.claim}
        ok = decision.error is None
        return Event(
            type=decision.type,
            at=self._at_text,
            occurred_at=rfc3339(decision.occurred_at) if decision.occurred_at else None,
            actor=context.actor,
            authn=context.authn,
            ip=context.ip,
            request_id=context.request_id,
            reason=context.reason,
            host=host,
            purpose=purpose,
            credential_id=decision.credential_id,
            version=decision.version,
            ok=ok,
            error=decision.error,
            details=check_said(decision.type, details or None, ok=ok),
            body=sealed.reference if sealed else None,
        )

    def _record(
        self, event: Event, entry: bytes, name: Name | None, state: State, sealed: _Sealed | None
    ) -> None:
        position = self.append.position
        self.append.add_entry(entry)
        after = evolve(state, event, position)
        if event.type in TRUST:
            self.authenticity = authenticity.evolve(
                self.authenticity, event.type, event.details, position
            )
        if event.type == LEDGER_DISOWNED:
            self.append.disownings.append(position)
        erased = event.type == ERASED
        if erased:
            self.append.erasures.append(position)
        if name is not None and after != state:
            self.append.states[name] = (position, after)
        # After an erasure no row of the name may stay, not even one inserted by hand.
        if name is None or (after == state and not erased):
            return
        self._states[name] = after
        self._rows.pop(name, None)
        if sealed and after:
            self._keys[sealed.key.id] = sealed.key
            self._rows[name] = Row(name, after, sealed.body)
            stored = StoredBody(position, sealed.key.id, sealed.ciphertext)
            is_new = state is None or state.data_key != sealed.key.id
            self.append.add_body(stored, sealed.key if is_new else None)
        self.append.changes.append(Change(name, position, sealed.body if sealed else None))


def _check_time(snapshot: Snapshot) -> None:
    ahead = snapshot.last_at - snapshot.clock if snapshot.last_at else timedelta()
    if ahead > MAX_AHEAD:
        raise LedgerAheadError(
            f"the last event is {ahead} ahead of the database's clock: set that right. Where the "
            "clock is right, the event is wrong: secrets-broker verify says who made it"
        )


def _active(snapshot: Snapshot, keyring: Keyring) -> Kek:
    active = None
    for kek_id, state in snapshot.keks.items():
        if state == PREPARED:
            continue  # nothing is wrapped under it yet
        # A retiring KEK is required too: failing what it still wraps would look like tampering.
        kek = keyring.require(kek_id, state)
        if state == ACTIVE:
            active = kek
    if active is None:
        raise LedgerUnavailableError("ledger.keks has no active KEK")
    return active

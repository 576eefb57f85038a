"""Checks the MACs of events as they are read under the lock.

A batch checks all events that it relies on: the one that it follows, those that other processes
appended meanwhile, those that change grants or which events are believed, and the last change of
each credential that it names. It recomputes a leaf from the columns of the row: a stored leaf hash
proves nothing about the columns beside it.

An event that this process appended or checked before is known by its MAC and not checked again. So
most batches need no further round trip.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from secrets_broker.ledger.access import grants as granting
from secrets_broker.ledger.access.grants import Grants
from secrets_broker.ledger.append import Append
from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.database.round_trip import RoundTrips, Statement
from secrets_broker.ledger.encoding import canonical_json
from secrets_broker.ledger.encryption.event_key import NO_MAC, EventKey, WrappedEventKey, unwrap
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import DecryptionError, UnauthenticEventError
from secrets_broker.ledger.event_macs import acceptance
from secrets_broker.ledger.event_macs.acceptance import NEVER, Acceptance, Span
from secrets_broker.ledger.event_types import (
    GRANTS,
    IS_CONTROL,
    LEDGER_AUTHENTICATED,
)
from secrets_broker.ledger.events import Event
from secrets_broker.ledger.transparency_log.merkle import leaf_hash
from secrets_broker.ledger.transparency_log.stored_entries import ENTRY_COLUMNS

MAX_KNOWN: Final = 16_384  # names whose last change is known; some 5 MB
_AT_ONCE: Final = 1_000  # events that are in memory, however many somebody appended
_LOOK_BACK: Final = 1_000  # events, to say where a run of forged ones began

_STORED: Final = f"""
    SELECT event.position, row_to_json(entry)::text, event.mac, before.mac
    FROM ledger.events AS event
    LEFT JOIN ledger.events AS before ON before.position = event.position - 1
    CROSS JOIN LATERAL (
        SELECT {ENTRY_COLUMNS} FROM ledger.events AS own WHERE own.position = event.position
    ) AS entry
"""  # noqa: S608 - our own constants
_CONTROL: Final = (
    _STORED
    + """
    WHERE event.position IN (
        SELECT position FROM ledger.events WHERE ok AND __is_control__ AND position > $1)
    ORDER BY event.position
""".replace("__is_control__", IS_CONTROL)
)
_AT: Final = (
    _STORED
    + """
    WHERE event.position IN (SELECT jsonb_array_elements_text($1::jsonb)::bigint)
    ORDER BY event.position
"""
)
_SPAN: Final = (
    _STORED + " WHERE event.position >= $1 AND event.position <= $2 ORDER BY event.position"
)
_EVENT_KEYS: Final = "SELECT id, kek, wrapped, from_position FROM ledger.event_keys"
_DISOWNED: Final = """
    SELECT first_position, last_position FROM ledger.disowned ORDER BY by_position, first_position
"""

Last = tuple[int | None, int | None, int, str | None]
"""A name's last change: credential's id, version, position, and the data key of its body."""

_decoder = msgspec.json.Decoder(Event)
_UNREADABLE: Final = Event(type="", at="", authn="", ok=False)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as stored, its MAC, and the MAC of the event before."""

    position: int
    event: Event
    leaf: bytes | None
    """The leaf hash recomputed from the row's columns; None if they make no entry."""
    mac: bytes | None
    before: bytes


class Authenticator:
    """What one connection knows to be authentic, and the checks of everything else."""

    def __init__(self, round_trips: RoundTrips, keyring: Keyring) -> None:
        self._round_trips = round_trips
        self._keyring = keyring
        self._event_keys: dict[str, EventKey] = {}
        self._head: tuple[int, bytes | None, datetime] | None = None
        self._known: dict[Name, Last] = {}
        self._generation = -1
        self.authenticity = NEVER
        self.grants = Grants()
        self.set_aside: tuple[Span, ...] = ()
        """The ranges that a command is about to disown: neither checked nor believed."""
        self.begins = False
        """Whether a command is about to authenticate the ledger for the first time."""

    @property
    def leaves_out_any(self) -> bool:
        """Whether any event is disowned, or about to be."""
        return bool(self.authenticity.disowned or self.set_aside)

    def key_at(self, position: int) -> EventKey | None:
        """The event key in force at this position; None if no MAC is demanded."""
        return self._event_keys.get(self.authenticity.key_id(position) or "")

    def is_left_out(self, position: int) -> bool:
        """Whether the event at this position is disowned, or about to be."""
        about_to_be = any(first <= position <= last for first, last in self.set_aside)
        return about_to_be or self.authenticity.is_disowned(position)

    async def follow(self, generation: int) -> None:
        """Take in the grants, event keys and disowned ranges up to their last event.

        Raises UnauthenticEventError, and WrongKeyError if a KEK is missing.
        """
        if generation == self._generation:
            return
        if generation < self._generation:
            self.authenticity, self.grants, self._generation = NEVER, Grants(), -1
        answer = await self._round_trips.send(
            Statement(_CONTROL, (b"%d" % self._generation,)),
            Statement(_EVENT_KEYS),
            Statement(_DISOWNED),
        )
        control = [_stored(row) for row in answer.rows[0]]
        wrapped = {row[0]: WrappedEventKey(*row) for row in answer.rows[1]}
        believed, doubtful = self._judge(control, wrapped)
        self._refuse(doubtful)
        if tuple(answer.rows[2]) != self.authenticity.disowned:
            raise UnauthenticEventError(
                generation, generation, "ledger.disowned is not what the events say"
            )
        for stored in believed:
            self._take_grant(stored)
        self._generation = generation

    def check_chain(self, first: int, leaves: Sequence[bytes], macs: Sequence[bytes]) -> None:
        """Check events that others appended; the first one is known already, unless it is event 0.

        Raises UnauthenticEventError.
        """
        given = list(zip(leaves, macs, strict=True))
        wrong = [
            position
            for position, (leaf, mac) in enumerate(given, first)
            if (position > first or position == 0)
            and not self._fits(mac, position, leaf, given[position - first - 1][1]
                               if position > first else NO_MAC)
        ]  # fmt: skip
        self._refuse(wrong)

    async def check_head(self, position: int, mac: bytes | None, at: datetime) -> None:
        """Check the event that the batch will follow; raises UnauthenticEventError."""
        head = (position, mac, at)
        if head == self._head:
            return
        await self._check_at(position)
        self._head = head

    async def check_around(self, spans: Iterable[Span], size: int) -> None:
        """Check the events before and after these ranges; raises UnauthenticEventError.

        The maker of a right event has checked its predecessor. So no forged event remains between
        the ranges and the events that were made with the keys.
        """
        for first, last in spans:
            for beside in (first - 1, last + 1):
                if 0 <= beside < size:
                    await self._check_at(beside)

    async def _check_at(self, position: int) -> None:
        if self._is_checked(position) and await self._wrong([position]):
            window = await self._read_span(max(0, position - _LOOK_BACK), position)
            self._refuse([s.position for s in window if not self._is_right(s)])

    async def check_changes(self, records: Sequence[Sequence[Any]]) -> None:
        """Check each name's last change: rows of host, purpose and a `Last`, then anything.

        Raises UnauthenticEventError.
        """
        known = self._known
        unknown: dict[Name, Last] = {
            (record[0], record[1]): tuple(record[2:6])
            for record in records
            if known.get((record[0], record[1])) != record[2:6] and record[4] is not None
        }
        if unknown:
            positions = sorted({position for _, _, position, _ in unknown.values()})
            self._refuse(await self._wrong([p for p in positions if self._is_checked(p)]))
            self._know(unknown.items())

    def learn(self, append: Append, at: datetime) -> None:
        """Remember what this process has just committed."""
        self._head = (append.position - 1, append.macs[-1], at)
        self._know(
            (name, (after.id, after.version, position, after.data_key))
            for name, (position, after) in append.states.items()
            if after is not None
        )

    async def rightly_made(self, spans: Iterable[Span]) -> list[int]:
        """The positions in these ranges whose MAC is right."""
        right = []
        for first, last in spans:
            for begin in range(first, last + 1, _AT_ONCE):
                some = await self._read_span(begin, min(begin + _AT_ONCE - 1, last))
                right += [s.position for s in some if self._is_right(s)]
        return right

    def _judge(
        self, control: Sequence[StoredEvent], wrapped: Mapping[str, WrappedEventKey]
    ) -> tuple[list[StoredEvent], list[int]]:
        """Fold the right events; return them, and the positions of the others."""
        believed, doubtful = [], []
        for stored in control:
            event, position = stored.event, stored.position
            after = acceptance.evolve(self.authenticity, event.type, event.details, position)
            self._open_key(after, position, wrapped)
            before, self.authenticity = self.authenticity, after
            begins_nothing = event.type == LEDGER_AUTHENTICATED and after == before
            if self._is_right(stored) and not begins_nothing:
                believed.append(stored)
                continue
            doubtful.append(position)
            # A holder of the KEK began a key that opens, even if this event's MAC is wrong. So the
            # events after it need MACs of that key.
            if after.keys == before.keys or self.key_at(position) is None:
                self.authenticity = before
        return believed, doubtful

    def _open_key(
        self, after: Acceptance, position: int, wrapped: Mapping[str, WrappedEventKey]
    ) -> None:
        key_id = after.key_id(position)
        stored = wrapped.get(key_id or "")
        if key_id in self._event_keys or stored is None or after.ledger is None:
            return
        if stored.from_position != after.keys[-1][0]:
            return  # the key of another event
        try:
            kek = self._keyring.require(stored.kek)
            self._event_keys[stored.id] = unwrap(kek, after.ledger, stored)
        except DecryptionError:
            return  # no holder of the KEK wrapped it: events that need it are not believed

    def _take_grant(self, stored: StoredEvent) -> None:
        event = stored.event
        if event.type in GRANTS:
            details = event.details or {}
            self.grants = granting.evolve(
                self.grants, event.type, details, stored.position, event.at
            )

    def _refuse(self, positions: Sequence[int]) -> None:
        """Raise UnauthenticEventError if any of these must be believed."""
        begun = self.authenticity.begun
        if begun is None and self.begins:
            return  # the operator reviews the ledger now; earlier forged beginnings do not count
        wrong = [p for p in positions if (begun is None or p >= begun) and not self.is_left_out(p)]
        if wrong:
            first, last = acceptance.spans(wrong)[0]
            raise UnauthenticEventError(first, last)

    def _is_checked(self, position: int) -> bool:
        return self.authenticity.demands(position) and not self.is_left_out(position)

    def _is_right(self, stored: StoredEvent) -> bool:
        leaf = stored.leaf
        return leaf is not None and self._fits(stored.mac, stored.position, leaf, stored.before)

    def _fits(self, mac: bytes | None, position: int, leaf: bytes, before: bytes) -> bool:
        if not self.authenticity.demands(position):
            return True
        return acceptance.fits(self.key_at(position), mac, position, leaf, before)

    async def _wrong(self, positions: Sequence[int]) -> list[int]:
        if not positions:
            return []
        answer = await self._round_trips.send(Statement(_AT, (msgspec.json.encode(positions),)))
        found = {stored.position: stored for stored in map(_stored, answer.rows[0])}
        return [p for p in positions if p not in found or not self._is_right(found[p])]

    async def _read_span(self, first: int, last: int) -> list[StoredEvent]:
        answer = await self._round_trips.send(Statement(_SPAN, (b"%d" % first, b"%d" % last)))
        return [_stored(row) for row in answer.rows[0]]

    def _know(self, items: Iterable[tuple[Name, Last]]) -> None:
        for name, last in items:
            self._known.pop(name, None)
            self._known[name] = last
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]


def _stored(row: Sequence[Any]) -> StoredEvent:
    position, entry, mac, before = row
    try:
        event = _decoder.decode(entry)
        leaf = leaf_hash(canonical_json(event))
    except (msgspec.MsgspecError, RecursionError):
        # Made to break its reader, so not with the ledger's keys: it has no right MAC.
        event, leaf = _UNREADABLE, None
    return StoredEvent(position, event, leaf, mac, before or NO_MAC)

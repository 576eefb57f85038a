"""Which events are believed: by the event keys in force, and without the disowned events.

All of it follows from events. `ledger.authenticated` gives the ledger its id and names a key,
`ledger.restored` may name another one, `ledger.disowned` leaves ranges of positions out. Each is
believed only if its own MAC is right. Pure: callers pass unwrapped keys in.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from secrets_broker.ledger import event_types
from secrets_broker.ledger.encryption.event_key import EventKey

Span = tuple[int, int]
"""The first and the last position of a range."""

# The members of details.
LEDGER: Final = "ledger"
KEY: Final = "event_key"
RANGES: Final = "ranges"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the events so far say about keys and disowned ranges."""

    ledger: str | None = None
    keys: tuple[tuple[int, str], ...] = ()
    """The first position of each event key, with its id, in order."""
    disowned: tuple[Span, ...] = ()

    @property
    def begun(self) -> int | None:
        """The position from which MACs are demanded; None if the ledger is not authenticated."""
        return self.keys[0][0] if self.keys else None

    def demands(self, position: int) -> bool:
        """Whether the event at this position needs a right MAC."""
        return self.begun is not None and position >= self.begun

    def key_id(self, position: int) -> str | None:
        """The id of the event key in force at this position."""
        index = bisect_right(self.keys, position, key=lambda known: known[0])
        return self.keys[index - 1][1] if index else None

    def is_disowned(self, position: int) -> bool:
        """Whether the event at this position is disowned."""
        return any(first <= position <= last for first, last in self.disowned)


NEVER: Final = Acceptance()
"""The acceptance of an empty ledger, or of one that was never authenticated."""


def named(details: Mapping[str, Any] | None, before: Acceptance) -> tuple[str, str] | None:
    """The ledger's id and the event key that an event names; None if it names none."""
    # This runs before the MAC is checked, so the details may be forged.
    members = details if isinstance(details, Mapping) else {}
    key, ledger = members.get(KEY), members.get(LEDGER, before.ledger)
    if not isinstance(key, str) or not isinstance(ledger, str):
        return None
    # The ledger has one id: an event that gives another is not this ledger's.
    return (ledger, key) if before.ledger in (None, ledger) else None


def evolve(
    before: Acceptance, kind: str, details: Mapping[str, Any] | None, position: int
) -> Acceptance:
    """The acceptance after an event that is believed."""
    if kind in (event_types.LEDGER_AUTHENTICATED, event_types.LEDGER_RESTORED):
        begins = named(details, before)
        if begins is None:
            return before
        ledger, key = begins
        return replace(before, ledger=ledger, keys=(*before.keys, (position, key)))
    # Before MACs are demanded, anybody could have appended it unnoticed.
    if kind == event_types.LEDGER_DISOWNED and before.demands(position):
        return replace(before, disowned=(*before.disowned, *ranges(details)))
    return before


def ranges(details: Mapping[str, Any] | None) -> tuple[Span, ...]:
    """The ranges that a ledger.disowned event names; none if its details are malformed.

    This runs before the event's MAC is checked, so the details may be anything.
    """
    given = (details or {}).get(RANGES)
    found = tuple(map(_span, given)) if isinstance(given, list) else ()
    return tuple(span for span in found if span) if all(found) else ()


def _span(given: Any) -> Span | None:
    match given:
        case [first, last] if type(first) is type(last) is int and 0 <= first <= last:
            return first, last
        case _:
            return None


def in_force(disownings: Sequence[tuple[int, tuple[Span, ...]]]) -> tuple[Span, ...]:
    """The disowned ranges for a reader that cannot check MACs.

    `disownings` are the events' positions and ranges, in order. A disowned ledger.disowned event
    has no effect; only a later one can disown it.
    """
    found: tuple[Span, ...] = ()
    for position, left_out in reversed(disownings):
        if not any(first <= position <= last for first, last in found):
            found = left_out + found
    return found


def spans(positions: Sequence[int]) -> tuple[Span, ...]:
    """Ascending positions as ranges."""
    found: list[Span] = []
    for position in positions:
        if found and found[-1][1] == position - 1:
            found[-1] = (found[-1][0], position)
        else:
            found.append((position, position))
    return tuple(found)


def fits(
    key: EventKey | None, mac: bytes | None, position: int, leaf: bytes, before: bytes
) -> bool:
    """Whether an event's MAC is right; False if its key is missing."""
    return key is not None and key.fits(mac, position, leaf, before)

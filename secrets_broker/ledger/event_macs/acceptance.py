"""Which events are believed: the event keys and from where each is in force, and what is disowned.

All of it follows from events: `ledger.authenticated` gives the ledger its id and names a key,
`ledger.restored` may name another, `ledger.disowned` leaves ranges of positions out. Each of them
is believed only if its own MAC is right. Pure: keys are handed in, unwrapped.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from secrets_broker.ledger import event_types
from secrets_broker.ledger.encryption.event_key import EventKey

Span = tuple[int, int]
"""The first and the last of some positions that follow each other."""

# The members of details.
LEDGER: Final = "ledger"
KEY: Final = "event_key"
RANGES: Final = "ranges"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the events so far say; `begun` is the position from which MACs are demanded."""

    ledger: str | None = None
    keys: tuple[tuple[int, str], ...] = ()
    """From which position on which event key is in force, in order."""
    disowned: tuple[Span, ...] = ()

    @property
    def begun(self) -> int | None:
        """The first position that has a MAC; None for a ledger that was never authenticated."""
        return self.keys[0][0] if self.keys else None

    def demands(self, position: int) -> bool:
        """Whether the event there needs a right MAC to be believed."""
        return self.begun is not None and position >= self.begun

    def key_id(self, position: int) -> str | None:
        """The event key that the MAC at a position is made with."""
        index = bisect_right(self.keys, position, key=lambda known: known[0])
        return self.keys[index - 1][1] if index else None

    def is_disowned(self, position: int) -> bool:
        """Whether the event there is left out."""
        return any(first <= position <= last for first, last in self.disowned)


NEVER: Final = Acceptance()
"""A ledger that was never authenticated, or has no event."""


def named(details: Mapping[str, Any] | None, before: Acceptance) -> tuple[str, str] | None:
    """The ledger's id and the event key that an event names; None where it names no key."""
    # Whoever may append chooses what stands there, and this is asked before the MAC is checked.
    members = details if isinstance(details, Mapping) else {}
    key, ledger = members.get(KEY), members.get(LEDGER, before.ledger)
    if not isinstance(key, str) or not isinstance(ledger, str):
        return None
    # The ledger has one id: an event that gives another is not this ledger's.
    return (ledger, key) if before.ledger in (None, ledger) else None


def evolve(
    before: Acceptance, kind: str, details: Mapping[str, Any] | None, position: int
) -> Acceptance:
    """Say what follows from an event that is believed."""
    if kind in (event_types.LEDGER_AUTHENTICATED, event_types.LEDGER_RESTORED):
        begins = named(details, before)
        if begins is None:
            return before
        ledger, key = begins
        return replace(before, ledger=ledger, keys=(*before.keys, (position, key)))
    # Before MACs are demanded anybody could have said so, and nobody had to look at it.
    if kind == event_types.LEDGER_DISOWNED and before.demands(position):
        return replace(before, disowned=(*before.disowned, *ranges(details)))
    return before


def ranges(details: Mapping[str, Any] | None) -> tuple[Span, ...]:
    """The positions that a ledger.disowned event names; none where it is not as we write them.

    It is asked before anybody knows who made the event, so of whatever may stand there.
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
    """What is left out, where nobody can check a MAC; each with its event's position, in order.

    A forged one says nothing once it is itself left out, which only a later one can do.
    """
    found: tuple[Span, ...] = ()
    for position, left_out in reversed(disownings):
        if not any(first <= position <= last for first, last in found):
            found = left_out + found
    return found


def spans(positions: Sequence[int]) -> tuple[Span, ...]:
    """Positions in ascending order as ranges."""
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
    """Whether an event's MAC is right; without the key that it needs it is not."""
    return key is not None and key.fits(mac, position, leaf, before)

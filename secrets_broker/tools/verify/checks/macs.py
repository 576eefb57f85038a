"""Who appended: every MAC, from the position on from which there are any. Pure.

The leaf that a MAC covers is taken from the stored leaf hash; that this is the hash of the row's
columns is another check's work, which looks at every event as well.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from secrets_broker.ledger.encryption.event_key import NO_MAC, EventKey
from secrets_broker.ledger.event_macs import acceptance
from secrets_broker.ledger.event_macs.acceptance import NEVER, Span, spans
from secrets_broker.ledger.event_types import LEDGER_AUTHENTICATED
from secrets_broker.tools.verify.checks.findings import Findings

MOST_TOLD = 1_000
"""Runs of forged events that are kept in memory; more of them are only counted."""


class MacInput(NamedTuple):
    """What of an event a MAC is about; details only where the event says what is believed."""

    position: int
    type: str
    ok: bool
    details: Mapping[str, Any] | None
    leaf: bytes | None
    mac: bytes | None


Disowned = tuple[int, int | None, int | None]
"""A row of ledger.disowned: the first position, the last one, and the event that says so."""


class MacCheck:
    """Takes every event in order, then says which were not made with the ledger's keys."""

    def __init__(self, keys: Mapping[tuple[str, int], EventKey]) -> None:
        self._keys = keys
        # A key that opens proves that MACs are demanded, whatever became of the event there.
        self._first_key = min((first for _, first in keys), default=None)
        self._before = NO_MAC
        self._next = 0
        self._behind_gaps = 0
        self._wrong: list[Span] = []
        self._more = 0
        self._disowned: list[Disowned] = []
        self._claims: dict[str, int] = {}
        self.believed = NEVER
        self.count = 0

    def take(self, events: Iterable[MacInput]) -> None:
        """Check these, which follow those before."""
        for event in events:
            self._check(event)
            self._before, self._next = event.mac or NO_MAC, event.position + 1

    def _check(self, event: MacInput) -> None:
        after = self.believed
        if event.ok and event.details is not None:
            after = acceptance.evolve(after, event.type, event.details, event.position)
        begins_nothing = event.type == LEDGER_AUTHENTICATED and after == self.believed
        demanded = self._first_key is not None and event.position >= self._first_key
        if not (demanded or after.demands(event.position) or begins_nothing):
            return
        self.count += 1
        key = self._keys.get((after.key_id(event.position) or "", _began(after, event.position)))
        if event.leaf is not None and acceptance.fits(
            key, event.mac, event.position, event.leaf, self._before
        ):
            new = after.disowned[len(self.believed.disowned) :]
            self._disowned += ((first, last, event.position) for first, last in new)
            self.believed = after
            return
        if event.position > self._next:
            self._behind_gaps += 1  # its MAC covers that of an event which is not there
        else:
            self._note(event.position)
        if after.keys != self.believed.keys and after.ledger and len(self._claims) < MOST_TOLD:
            self._claims.setdefault(after.ledger, event.position)
        # A key that opens was begun here by somebody with the KEK, whatever became of the MAC.
        if key is not None and after.keys != self.believed.keys:
            self.believed = after

    def _note(self, position: int) -> None:
        if self._wrong and self._wrong[-1][1] == position - 1:
            self._wrong[-1] = (self._wrong[-1][0], position)
        elif len(self._wrong) < MOST_TOLD:
            self._wrong.append((position, position))
        else:
            self._more += 1

    def finish(
        self, findings: Findings, disowned: Iterable[Disowned], unopened: Iterable[int | None] = ()
    ) -> None:
        """Tell what is wrong.

        `disowned` is what the database keeps of ledger.disowned events; `unopened` are the
        positions of the events that brought a key that does not open.
        """
        for position in unopened:
            # A superuser can drop a constraint, and so leave a row without a position.
            if position is None or self._matters(position):
                findings.wrong(position, "key", "an event key does not open")
        findings.checked["MACs"] = self.count
        for first, last in self._undisowned():
            which = f"{first}" if first == last else f"{first}-{last}"
            findings.wrong(
                first,
                "mac",
                f"not made with this ledger's keys: {which}; look at it, then run "
                f"secrets-broker disown {which}",
            )
        if self._behind_gaps:
            findings.left_out(
                f"who appended the {self._behind_gaps} events before which one is missing"
            )
        if self._more:
            findings.wrong(None, "mac", f"{self._more} more events were not made with the keys")
        if set(disowned) != set(self._disowned):
            findings.wrong(None, "mac", "ledger.disowned is not what the events say")

    def _matters(self, position: int) -> bool:
        """Whether something follows from an event there, or would if its MAC were right."""
        begun = self._demanded_from()
        return (begun is None or position >= begun) and not self.believed.is_disowned(position)

    def _undisowned(self) -> tuple[Span, ...]:
        return spans(
            [
                position
                for first, last in self._wrong
                for position in range(first, last + 1)
                if self._matters(position)
            ]
        )

    def _demanded_from(self) -> int | None:
        """From where MACs are demanded; what claimed to begin this before was somebody else's.

        Not where it named the ledger's id, which nobody knew before that was drawn.
        """
        claimed = self._claims.get(self.believed.ledger or "")
        known = (self.believed.begun, self._first_key, claimed)
        return min((first for first in known if first is not None), default=None)


def _began(state: acceptance.Acceptance, position: int) -> int:
    """Where the event key that is in force at a position began; -1 where there is none."""
    return max((first for first, _ in state.keys if first <= position), default=-1)

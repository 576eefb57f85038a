"""Who appended: every MAC, from the position on from which there are any. Pure.

The leaf that a MAC covers is taken from the stored leaf hash; that this is the hash of the row's
columns is another check's work, which looks at every event as well.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from secrets_broker.ledger import authenticity
from secrets_broker.ledger.audit.findings import Findings
from secrets_broker.ledger.authenticity import NEVER, Span, spans
from secrets_broker.ledger.event_key import NO_MAC, EventKey
from secrets_broker.ledger.events import LEDGER_AUTHENTICATED

MOST_TOLD = 1_000
"""Runs of forged events that are kept in memory; more of them are only counted."""


class Authenticated(NamedTuple):
    """What of an event a MAC is about; details only where the event says what is believed."""

    position: int
    type: str
    ok: bool
    details: Mapping[str, Any] | None
    leaf: bytes
    mac: bytes | None


class MacCheck:
    """Takes every event in order, then says which were not made with the ledger's keys."""

    def __init__(self, keys: Mapping[tuple[str, int], EventKey]) -> None:
        self._keys = keys
        self._before = NO_MAC
        self._wrong: list[Span] = []
        self._more = 0
        self.believed = NEVER
        self.count = 0

    def take(self, events: Iterable[Authenticated]) -> None:
        """Check these, which follow those before."""
        for event in events:
            self._check(event)
            self._before = event.mac or NO_MAC

    def _check(self, event: Authenticated) -> None:
        after = self.believed
        if event.ok and event.details is not None:
            after = authenticity.evolve(after, event.type, event.details, event.position)
        begins_nothing = event.type == LEDGER_AUTHENTICATED and after == self.believed
        if not after.demands(event.position) and not begins_nothing:
            return
        self.count += 1
        key_id = after.key_id(event.position)
        key = self._keys.get((key_id or "", _began(after, event.position)))
        if authenticity.fits(key, event.mac, event.position, event.leaf, self._before):
            self.believed = after
        else:
            self._note(event.position)

    def _note(self, position: int) -> None:
        if self._wrong and self._wrong[-1][1] == position - 1:
            self._wrong[-1] = (self._wrong[-1][0], position)
        elif len(self._wrong) < MOST_TOLD:
            self._wrong.append((position, position))
        else:
            self._more += 1

    def finish(
        self, findings: Findings, disowned: Iterable[Span], unopened: Iterable[int] = ()
    ) -> None:
        """Tell what is wrong.

        `disowned` is what the database keeps of ledger.disowned events; `unopened` are the
        positions of the events that brought a key that does not open.
        """
        for position in filter(self._matters, unopened):
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
        if self._more:
            findings.wrong(None, "mac", f"{self._more} more events were not made with the keys")
        if tuple(disowned) != self.believed.disowned:
            findings.wrong(None, "mac", "ledger.disowned is not what the events say")

    def _matters(self, position: int) -> bool:
        """Whether something follows from an event there, or would if its MAC were right."""
        begun = self.believed.begun
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


def _began(state: authenticity.Authenticity, position: int) -> int:
    """Where the event key that is in force at a position began; -1 where there is none."""
    return max((first for first, _ in state.keys if first <= position), default=-1)

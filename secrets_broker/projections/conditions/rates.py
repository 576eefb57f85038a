"""How many lookups there are, and how many of them fail."""

from typing import Final

import msgspec

from secrets_broker.ledger.access.rights import READ as TO_READ
from secrets_broker.ledger.event_types import ACCESS_DENIED, READ
from secrets_broker.projections.conditions.condition import (
    FAILURE_RATE,
    READ_SPIKE,
    Finding,
    Happened,
)
from secrets_broker.projections.conditions.thresholds import Thresholds
from secrets_broker.projections.conditions.time_windows import Buckets

_STEPS: Final = 10
"""Steps of a window: it slides by a tenth of its length."""
_WINDOWS_BEFORE: Final = 6
"""How many earlier windows it takes to say what is usual."""


class Failures(msgspec.Struct):
    """The lookups of known callers, and those of them that were not answered with a secret.

    Refusals of known callers count; the condition `unauthorized` covers unknown callers.
    """

    lookups: Buckets
    failed: Buckets

    @classmethod
    def of(cls, thresholds: Thresholds) -> "Failures":
        """Nothing remembered yet."""
        return cls(*(_window(thresholds.failure_seconds) for _ in range(2)))

    def take(self, event: Happened, at: int, thresholds: Thresholds) -> Finding | None:
        """Count an event."""
        if not _is_lookup(event):
            return None
        self.lookups.add(at)
        if event.ok:
            self.failed.move(at)
        else:
            self.failed.add(at)
        failed, lookups = self.failed.total, self.lookups.total
        if lookups < thresholds.failure_lookups:
            return None
        if failed * 100 <= lookups * thresholds.failure_percent:
            return None
        seconds = thresholds.failure_seconds
        return Finding(
            FAILURE_RATE,
            f"{failed} of {lookups} lookups failed within {seconds} s",
            key=FAILURE_RATE,
            quiet=seconds,
            facts={"count": failed, "of": lookups, "seconds": seconds},
        )


class Reads(msgspec.Struct):
    """The lookups of the last window, and what is usual: the mean of the windows before."""

    recent: Buckets
    all: Buckets
    """The last window, and those before."""
    began: int | None = None
    """When the first one was counted."""

    @classmethod
    def of(cls, thresholds: Thresholds) -> "Reads":
        """Nothing remembered yet."""
        recent = _window(thresholds.spike_seconds)
        before = thresholds.baseline_seconds // recent.step
        return cls(recent, Buckets(recent.step, _STEPS + before))

    def take(self, event: Happened, at: int, thresholds: Thresholds) -> Finding | None:
        """Count an event."""
        if event.type != READ:
            return None
        if self.began is None:
            self.began = at
        self.recent.add(at)
        self.all.add(at)
        reads, usual = self.recent.total, self._usual(at)
        if usual is None or reads < thresholds.spike_reads:
            return None
        if reads <= thresholds.spike_factor * usual:
            return None
        seconds = thresholds.spike_seconds
        return Finding(
            READ_SPIKE,
            f"{reads} lookups within {seconds} s, where {round(usual)} are usual",
            key=READ_SPIKE,
            quiet=seconds,
            facts={"count": reads, "baseline": round(usual), "seconds": seconds},
        )

    def _usual(self, at: int) -> float | None:
        step = self.recent.step
        known = at // step - (self.began or 0) // step - _STEPS + 1
        steps = min(known, self.all.steps - _STEPS)
        if steps < min(_WINDOWS_BEFORE * _STEPS, self.all.steps - _STEPS) or steps < 1:
            return None
        return (self.all.total - self.recent.total) * _STEPS / steps


def _window(seconds: int) -> Buckets:
    return Buckets(seconds // _STEPS, _STEPS)


def _is_lookup(event: Happened) -> bool:
    if event.type == READ:
        return True
    return (
        event.type == ACCESS_DENIED
        and event.actor is not None
        and event.detail("operation") == TO_READ
    )

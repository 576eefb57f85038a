"""The fold: takes one event after the other and gives the conditions of each."""

from datetime import datetime

import msgspec

from secrets_broker.projections.conditions.condition import (
    CHECKPOINT_AGE,
    PROJECTION_DIFFERENCE,
    Condition,
    Finding,
    Happened,
)
from secrets_broker.projections.conditions.rates import Failures, Reads
from secrets_broker.projections.conditions.single_event import (
    admin_granted,
    disowned,
    encryption_error,
    grant_changed,
    refusal,
)
from secrets_broker.projections.conditions.thresholds import Thresholds
from secrets_broker.projections.conditions.time_windows import LastTold
from secrets_broker.projections.conditions.unusual_readers import BulkReads, Sources

_MAX_POSITIONS = 10


class Memory(msgspec.Struct):
    """The whole state of a fold; a fold continued from it behaves as if never interrupted."""

    failures: Failures
    reads: Reads
    bulk: BulkReads
    sources: Sources
    told: LastTold

    @classmethod
    def of(cls, thresholds: Thresholds) -> "Memory":
        """Nothing remembered yet."""
        counts = Failures.of(thresholds), Reads.of(thresholds)
        return cls(*counts, BulkReads({}), Sources({}), LastTold({}))


class Conditions:
    """Takes each event once, in the order of positions."""

    def __init__(self, thresholds: Thresholds, memory: Memory | None = None) -> None:
        self.thresholds = thresholds
        self.memory = memory or Memory.of(thresholds)

    def take(self, event: Happened) -> list[Condition]:
        """The conditions to report at this event."""
        at = event.seconds
        return [
            finding.at(event.position, event.at)
            for finding in self._findings(event, at)
            if self._tells(finding, at)
        ]

    def checkpoint(self, position: int, at: datetime, now: datetime) -> list[Condition]:
        """The conditions to report where this is the first event that no checkpoint covers."""
        age = int((now - at).total_seconds())
        if age <= self.thresholds.checkpoint_seconds:
            return []
        finding = Finding(
            CHECKPOINT_AGE,
            f"no published checkpoint covers what was recorded {age} s ago",
            key=CHECKPOINT_AGE,
            quiet=self.thresholds.checkpoint_seconds,
            facts={"seconds": age},
        )
        return self._told(finding, position, now)

    def projection(self, positions: list[int], now: datetime) -> list[Condition]:
        """The conditions to report for changes whose row does not follow from them.

        `positions` are those of the changes, or those that the wrong rows name.
        """
        if not positions:
            return []
        finding = Finding(
            PROJECTION_DIFFERENCE,
            f"{len(positions)} rows of host_credentials do not follow from the ledger: run "
            "secrets-broker rebuild --check",
            key=PROJECTION_DIFFERENCE,
            facts={"count": len(positions), "positions": tuple(positions[:_MAX_POSITIONS])},
        )
        return self._told(finding, min(positions), now)

    def _findings(self, event: Happened, at: int) -> list[Finding]:
        memory, thresholds = self.memory, self.thresholds
        found = (
            memory.failures.take(event, at, thresholds),
            memory.reads.take(event, at, thresholds),
            memory.bulk.take(event, at, thresholds),
            memory.sources.take(event, at),
            encryption_error(event),
            refusal(event),
            grant_changed(event),
            admin_granted(event),
            disowned(event),
        )
        return [finding for finding in found if finding is not None]

    def _told(self, finding: Finding, position: int, now: datetime) -> list[Condition]:
        return [finding.at(position, now)] if self._tells(finding, int(now.timestamp())) else []

    def _tells(self, finding: Finding, at: int) -> bool:
        if finding.key is None:
            return True
        cooldown = self.thresholds.cooldown_seconds
        quiet = finding.quiet or cooldown
        return self.memory.told.tells(finding.key, at, quiet, cooldown)

"""A condition, the finding before it, and the event that both follow from."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from secrets_broker.ledger.encoding import rfc3339

FAILURE_RATE: Final = "failure_rate"
READ_SPIKE: Final = "read_spike"
ENCRYPTION_ERROR: Final = "encryption_error"
UNAUTHORIZED: Final = "unauthorized"
DENIED: Final = "denied"
BULK_READS: Final = "bulk_reads"
NEW_SOURCE: Final = "new_source"
CHECKPOINT_AGE: Final = "checkpoint_age"
PROJECTION_DIFFERENCE: Final = "projection_difference"
GRANT_CHANGED: Final = "grant_changed"
ADMIN_GRANTED: Final = "admin_granted"
EVENTS_DISOWNED: Final = "events_disowned"

Severity = Literal["critical", "warning", "notice"]

SEVERITIES: Final[dict[str, Severity]] = {
    FAILURE_RATE: "warning",
    READ_SPIKE: "warning",
    ENCRYPTION_ERROR: "critical",
    UNAUTHORIZED: "warning",
    DENIED: "warning",
    BULK_READS: "critical",
    NEW_SOURCE: "warning",
    CHECKPOINT_AGE: "critical",
    PROJECTION_DIFFERENCE: "critical",
    GRANT_CHANGED: "notice",
    ADMIN_GRANTED: "warning",
    EVENTS_DISOWNED: "critical",
}
WORDS: Final = tuple(SEVERITIES)
"""Every word that `Condition.condition` can be."""

# Columns hold longer texts; the whole text is in the event at the position.
_LONGEST: Final = 255


class Happened(msgspec.Struct, frozen=True):
    """An event: those columns of its row that conditions follow from."""

    position: int
    at: datetime
    type: str
    actor: str | None
    authn: str
    ip: str | None
    host: str | None
    purpose: str | None
    ok: bool
    error: str | None
    details: dict[str, Any] | None

    @property
    def seconds(self) -> int:
        """When it was recorded, in whole seconds of Unix time."""
        return int(self.at.timestamp())

    def detail(self, name: str) -> Any:
        """The value of a name in `details`, or None."""
        return (self.details or {}).get(name)


COLUMNS: Final = Happened.__struct_fields__


class Condition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody should be told of; fields without a value are left out."""

    id: str
    """`condition:position`; the same each time the condition is reported."""
    condition: str
    severity: Severity
    position: int
    """Of the event at which it is reported."""
    at: str
    """The time of that event, by the ledger's clock."""
    summary: str
    """One sentence; texts of callers are quoted and escaped in it."""
    actor: str | None = None
    claim: str | None = None
    """The name that an unproven caller gave itself."""
    source: str | None = None
    """An address, or an IPv6 /64."""
    host: str | None = None
    purpose: str | None = None
    operation: str | None = None
    rule: str | None = None
    grant: str | None = None
    """The id of a grant."""
    name: str | None = None
    """The name in the grant."""
    change: str | None = None
    count: int | None = None
    of: int | None = None
    """The total that `count` is a part of."""
    baseline: int | None = None
    """The usual count."""
    seconds: int | None = None
    """The time span of the count."""
    positions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition that holds at an event; `LastTold` decides whether to report it."""

    condition: str
    summary: str
    key: str | None = None
    """The key that the cool-down applies to; None: reported each time."""
    quiet: int = 0
    """The condition is over when it has not held for so many seconds."""
    facts: dict[str, Any] = field(default_factory=dict)

    def at(self, position: int, at: datetime) -> Condition:
        """The condition that reports this finding."""
        return Condition(
            id=f"{self.condition}:{position}",
            condition=self.condition,
            severity=SEVERITIES[self.condition],
            position=position,
            at=rfc3339(at),
            summary=self.summary,
            **{name: _bounded(value) for name, value in self.facts.items()},
        )


def shown(text: object) -> str:
    """A caller's text for a sentence: quoted, cut, and without control characters."""
    return ascii(_bounded(text))


def _bounded(value: Any) -> Any:
    return value[:_LONGEST] if isinstance(value, str) else value

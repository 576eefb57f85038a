"""What is told, and what it is told from."""

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

# Columns hold longer texts; whoever wants all of one finds it at the position.
_LONGEST: Final = 255


class Happened(msgspec.Struct, frozen=True):
    """An event, as far as conditions follow from it: these columns of its row."""

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
        """What `details` have under a name, or None."""
        return (self.details or {}).get(name)


COLUMNS: Final = Happened.__struct_fields__


class Condition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody should be told of; fields that have nothing to say are left out."""

    id: str
    """`condition:position`: the same whenever it is told again."""
    condition: str
    severity: Severity
    position: int
    """Of the event that it is told at."""
    at: str
    """When that was, by the ledger's clock."""
    summary: str
    """One sentence, in which others' texts are quoted and escaped."""
    actor: str | None = None
    claim: str | None = None
    """What a caller called himself whom nothing proves."""
    source: str | None = None
    """An address, or an IPv6 /64."""
    host: str | None = None
    purpose: str | None = None
    operation: str | None = None
    rule: str | None = None
    grant: str | None = None
    """The id of a grant."""
    name: str | None = None
    """Whose grant it is."""
    change: str | None = None
    count: int | None = None
    of: int | None = None
    """How many altogether, `count` being some of them."""
    baseline: int | None = None
    """How many are usual."""
    seconds: int | None = None
    """Within how long."""
    positions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """That a condition holds at an event; whether it is told depends on when it last was."""

    condition: str
    summary: str
    key: str | None = None
    """What has a cool-down of its own; None: told always."""
    quiet: int = 0
    """Seconds for which it must not have held, to be over."""
    facts: dict[str, Any] = field(default_factory=dict)

    def at(self, position: int, at: datetime) -> Condition:
        """The same as it is told."""
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
    """Another's text in a sentence: quoted, bounded, and no character that steers anything."""
    return ascii(_bounded(text))


def _bounded(value: Any) -> Any:
    return value[:_LONGEST] if isinstance(value, str) else value

"""Grant commands applied at chosen times."""

from datetime import UTC, datetime, timedelta

from secrets_broker.ledger.access.grant_commands import (
    GrantCommand,
)
from secrets_broker.ledger.access.grants import Grants, decide, evolve
from secrets_broker.ledger.encoding import rfc3339

START = datetime(2026, 1, 2, tzinfo=UTC)


def at(minute: int) -> datetime:
    """A time of the ledger."""
    return START + timedelta(minutes=minute)


def apply(grants: Grants, command: GrantCommand, minute: int, position: int) -> Grants:
    """What an event does to them."""
    decision = decide(grants, command, at(minute))
    details = decision.details or {}
    return evolve(grants, decision.type, details, position, rfc3339(at(minute)))

"""What the ledger asks of a projection that is written in an event's own transaction.

The ledger does not know any projection; the one that serves lookups is handed to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, Protocol

from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.credential import LiveCredential
from secrets_broker.ledger.database.round_trip import Statement
from secrets_broker.ledger.encryption.body import Body


@dataclass(frozen=True, slots=True)
class Row:
    """A live credential as the projection has it, and the change that it says it comes from."""

    name: Name
    state: LiveCredential
    body: Body


@dataclass(frozen=True, slots=True)
class Change:
    """A state-changing event's body; None where the credential is gone after it."""

    name: Name
    position: int
    body: Body | None


class Projection(Protocol):
    """A table that follows from the state-changing events."""

    @property
    def select(self) -> LiteralString:
        """A subquery that gives the row of name.host and name.purpose."""

    def row(self, name: Name, record: Sequence[Any]) -> Row | None:
        """Make a row of what `select` gave for a name; None where all of it is null."""

    def apply(self, changes: Sequence[Change]) -> list[Statement]:
        """Say what to execute for these changes, in order, in their events' transaction."""

"""The interface of a projection that is written in an event's own transaction.

The ledger knows no projection. The one that serves lookups is passed to it.
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
    """A live credential in the projection, with the change that the row claims to come from."""

    name: Name
    state: LiveCredential
    body: Body


@dataclass(frozen=True, slots=True)
class Change:
    """The body of a state-changing event; None if the event ends the credential."""

    name: Name
    position: int
    body: Body | None


class Projection(Protocol):
    """A table that follows from the state-changing events."""

    @property
    def select(self) -> LiteralString:
        """A subquery that returns the row of name.host and name.purpose."""

    def row(self, name: Name, record: Sequence[Any]) -> Row | None:
        """Make a row from the columns of `select`; None if all are null."""

    def apply(self, changes: Sequence[Change]) -> list[Statement]:
        """The statements for these changes, in order, to run in their events' transaction."""

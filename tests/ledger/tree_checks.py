"""The stored leaves and nodes, held to the events."""

from secrets_broker.ledger.events import BodyReference, Event, encode_entry
from secrets_broker.ledger.transparency_log.merkle import Node, leaf_hash
from tests.conftest import Database
from tests.ledger.helpers import (
    BEGUN,
    naive_nodes,
)

_ENTRIES = """
    SELECT position, leaf_hash, to_jsonb(row) - 'position' - 'leaf_hash' - 'mac' - 'at'
               - 'occurred_at',
           to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
           to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    FROM ledger.events AS row ORDER BY position
"""


def check_leaves(database: Database) -> list[Event]:
    """Make every entry again from its row's columns, and hold the leaf hashes to them.

    The events of commands; what the ledger begins with is checked, and left out.
    """
    events = []
    for expected, (position, leaf, columns, at, occurred_at) in enumerate(database.fetch(_ENTRIES)):
        body = columns.pop("body")
        reference = BodyReference(**body) if body else None
        event = Event(**columns, at=at, occurred_at=occurred_at, body=reference)
        assert position == expected
        assert leaf_hash(encode_entry(event)) == leaf
        events.append(event)
    return events[BEGUN:]


def check_nodes(database: Database) -> None:
    """Hold the stored nodes to a naive tree over the leaves."""
    query = "SELECT leaf_hash FROM ledger.events ORDER BY position"
    leaves = [leaf for (leaf,) in database.fetch(query)]
    stored = [Node(*row) for row in database.fetch("SELECT level, index, hash FROM ledger.nodes")]
    assert len(stored) == len(set(stored))
    assert set(stored) == naive_nodes(leaves)

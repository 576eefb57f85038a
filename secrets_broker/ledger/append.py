"""What one transaction writes: entries, their leaves and nodes, bodies, keys, changes."""

from dataclasses import dataclass, field

from secrets_broker.ledger.keyring import DataKey
from secrets_broker.ledger.merkle import Node, leaf_hash
from secrets_broker.ledger.projection import Change
from secrets_broker.ledger.seen import Seen


@dataclass(frozen=True, slots=True)
class StoredBody:
    """A body's ciphertext, with the position and the data key that it belongs to."""

    position: int
    key: str
    ciphertext: bytes = field(repr=False)


class Append:
    """Collects what follows a tree that is committed."""

    def __init__(self, before: Seen) -> None:
        self.entries: list[bytes] = []
        self.leaves: list[bytes] = []
        self.bodies: list[StoredBody] = []
        self.data_keys: list[DataKey] = []
        self.changes: list[Change] = []
        self.erasures: list[int] = []
        self._before = before

    @property
    def first_position(self) -> int:
        """Where the first entry stands."""
        return self._before.size

    @property
    def position(self) -> int:
        """Where the next entry will stand."""
        return self._before.size + len(self.entries)

    def add_entry(self, entry: bytes) -> None:
        """Append an event's entry."""
        self.entries.append(entry)
        self.leaves.append(leaf_hash(entry))

    def add_body(self, body: StoredBody, new_key: DataKey | None) -> None:
        """Add the body of the entry just appended, and its data key where it is new."""
        self.bodies.append(body)
        if new_key:
            self.data_keys.append(new_key)

    def nodes(self) -> list[Node]:
        """The nodes that these leaves complete."""
        return self._before.frontier.extend(self.leaves)[1]

    def seen(self) -> Seen:
        """The tree once this is committed."""
        return self._before.extend(self.leaves)

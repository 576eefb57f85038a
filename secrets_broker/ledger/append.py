"""What one transaction writes: entries with their MACs, leaves and nodes, bodies, keys, changes."""

from dataclasses import dataclass, field

from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.credential import State
from secrets_broker.ledger.encryption.event_key import NO_MAC, EventKey, WrappedEventKey
from secrets_broker.ledger.encryption.keyring import DataKey, Kek
from secrets_broker.ledger.projection_protocol import Change
from secrets_broker.ledger.transparency_log.merkle import Node, leaf_hash
from secrets_broker.ledger.tree_state import TreeState


@dataclass(frozen=True, slots=True)
class StoredBody:
    """A body's ciphertext, with the position and the data key that it belongs to."""

    position: int
    key: str
    ciphertext: bytes = field(repr=False)


class Append:
    """Collects what one transaction adds to a committed tree."""

    def __init__(
        self, before: TreeState, event_key: EventKey | None = None, last_mac: bytes = NO_MAC
    ) -> None:
        self.entries: list[bytes] = []
        self.leaves: list[bytes] = []
        self.macs: list[bytes | None] = []
        """One for each entry; None in a ledger that is not authenticated."""
        self.event_keys: list[WrappedEventKey] = []
        self.disownings: list[int] = []
        self.states: dict[Name, tuple[int, State]] = {}
        """The position of each name's last change, and the state after it."""
        self.bodies: list[StoredBody] = []
        self.data_keys: list[DataKey] = []
        self.changes: list[Change] = []
        self.erasures: list[int] = []
        self._before = before
        self._event_key = event_key
        self._last_mac = last_mac

    @property
    def first_position(self) -> int:
        """The position of the first entry."""
        return self._before.size

    @property
    def position(self) -> int:
        """The position of the next entry."""
        return self._before.size + len(self.entries)

    def add_entry(self, entry: bytes) -> None:
        """Append an event's entry, and its MAC."""
        leaf, mac = leaf_hash(entry), None
        if self._event_key:
            mac = self._last_mac = self._event_key.mac(self.position, leaf, self._last_mac)
        self.entries.append(entry)
        self.leaves.append(leaf)
        self.macs.append(mac)

    def begin_event_key(self, key: EventKey, kek: Kek) -> None:
        """Make MACs with this key from the next entry on; that entry must name the key."""
        self._event_key = key
        self.event_keys.append(key.wrap(kek, self.position))

    def add_body(self, body: StoredBody, new_key: DataKey | None) -> None:
        """Add the body of the entry just appended, and its data key if that is new."""
        self.bodies.append(body)
        if new_key:
            self.data_keys.append(new_key)

    def nodes(self) -> list[Node]:
        """The nodes that these leaves complete."""
        return self._before.frontier.extend(self.leaves)[1]

    def tree_state(self) -> TreeState:
        """The tree state once this is committed."""
        return self._before.extend(self.leaves)

"""The tree state: what this process knows of the ledger, and how it catches up.

There is no stored head. A process keeps the frontier in memory and extends it by new leaf hashes.
It also keeps the last leaf. A ledger that was restored, failed over or rewritten is shorter, or has
another leaf there: nothing must be appended to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from secrets_broker.ledger.errors import LedgerMismatchError
from secrets_broker.ledger.transparency_log.merkle import Frontier


@dataclass(frozen=True, slots=True)
class TreeState:
    """The largest tree that this process knows to be committed."""

    frontier: Frontier = field(default_factory=Frontier)
    last_leaf: bytes | None = None

    @property
    def size(self) -> int:
        """How many events the tree has."""
        return self.frontier.size

    @property
    def overlap(self) -> int:
        """The position to read from: the last known one, so that its leaf can be compared."""
        return max(0, self.size - 1)

    def catch_up(self, size: int, leaves: Sequence[bytes]) -> "TreeState":
        """Compare the leaf at `overlap`, and append those after it; raises LedgerMismatchError."""
        if size < self.size:
            raise LedgerMismatchError(
                f"the ledger has {size} events, but this process knows of {self.size}: "
                "it was restored or failed over to an older state"
            )
        if len(leaves) != size - self.overlap:
            raise LedgerMismatchError(f"the ledger's positions below {size} have a gap")
        if self.last_leaf is not None and leaves[0] != self.last_leaf:
            raise LedgerMismatchError(
                f"the event at position {self.overlap} is not the one that this process knows"
            )
        return self.extend(leaves[1:] if self.size else leaves)

    def extend(self, leaves: Sequence[bytes]) -> "TreeState":
        """Append the next leaf hashes."""
        if not leaves:
            return self
        return TreeState(self.frontier.extend(leaves)[0], leaves[-1])

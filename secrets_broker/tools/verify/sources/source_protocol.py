"""Where a ledger is read from: what every source gives, whatever it reads.

A source is read by the process that was started; ranges are read by others too, each through a
reader of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from secrets_broker.ledger.errors import LedgerError
from secrets_broker.tools.verify.checks.checkpoints import KeptCheckpoint
from secrets_broker.tools.verify.checks.findings import Violation
from secrets_broker.tools.verify.checks.ranges import Loaded
from secrets_broker.tools.verify.checks.subtree import Hash


class SourceError(LedgerError):
    """The ledger could not be read from there; the text says why, and what to do."""


class DamagedError(SourceError):
    """The ledger was reached, and what is there cannot be what a ledger has."""


@dataclass(slots=True)
class Overview:
    """What is known before any entry was read."""

    size: int
    published: tuple[str, int] | None
    beyond: list[KeptCheckpoint] = field(default_factory=list)
    """The largest checkpoint of each origin that is of more events than there are."""
    problems: list[Violation] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    complete: bool = True
    """Whether all of it was gone through in the end."""


class RangeReader(Protocol):
    """Reads ranges; raises SourceError or LedgerUnavailableError."""

    def load(self, first: int, count: int) -> Loaded:
        """The range of that many positions from the first on, which is a multiple of RANGE."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


class SourceAddress(Protocol):
    """Names a place to read from; picklable, so that other processes can open it too."""

    def open(self) -> RangeReader:
        """A reader for this process."""
        ...


class Source(RangeReader, Protocol):
    """Gives what is read but once."""

    @property
    def name(self) -> str:
        """What it is called in the report."""
        ...

    @property
    def address(self) -> SourceAddress:
        """For other processes."""
        ...

    def overview(self) -> Overview:
        """The size to be checked, and what is told at once."""
        ...

    def checkpoints(self, low: int, high: int) -> Sequence[KeptCheckpoint]:
        """Every checkpoint whose size is above low and at most high, by size."""
        ...

    def node(self, level: int, index: int) -> Hash:
        """A stored node above level 1."""
        ...

"""A range of the ledger: as a source gives it, and what it turned out to be.

All of it is picklable, so that a range can be examined by any process.
"""

import marshal
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from secrets_broker.tools.verify.checks.checkpoints import JudgedCheckpoint
from secrets_broker.tools.verify.checks.facts import Fact
from secrets_broker.tools.verify.checks.findings import Violation
from secrets_broker.tools.verify.checks.subtree import Edge, Hash


@dataclass(frozen=True, slots=True)
class BodyDigest:
    """A body as it is kept: its data key's id, and the SHA-256 of its ciphertext."""

    key: str
    digest: bytes


@dataclass(slots=True)
class Loaded:
    """A range as a source gives it."""

    first: int
    entries: list[bytes | None]
    """None where there is none, or none that can be read."""
    leaves: list[Hash] | None
    """The leaf hashes that are stored beside the entries; None where the source keeps none."""
    nodes: list[Hash]
    """The stored roots of the range's full tiles."""
    bodies: Mapping[int, BodyDigest] | None
    """By position; None where bodies cannot be read."""
    canonical: bool
    """Whether the entries are bytes that were kept (else JSON that was made from columns)."""
    told: bool = False
    """Whether what is missing has been told by who loaded it."""
    problems: list[Violation] = field(default_factory=list)


@dataclass(slots=True)
class Examined:
    """What a range turned out to be."""

    first: int
    count: int
    edge: Edge
    wrong_tiles: list[int]
    """Full tiles, by index, whose stored root is not that of their leaves, or is not there."""
    heads: list[JudgedCheckpoint]
    facts: bytes
    """A marshalled list of facts."""
    bodies_missing: list[tuple[str, int]]
    """Data key and position of bodies that entries name and that are not there."""
    bodies_there: list[tuple[str, int]]
    first_at: str | None
    last_at: str | None
    first_missing: int | None
    """The first position without an entry that could be read."""
    checked: Counter[str]
    problems: list[Violation]


def unmarshal(facts: bytes) -> Iterator[Fact]:
    """The facts of a range, in order."""
    return map(Fact._make, marshal.loads(facts))  # noqa: S302 - from our own process

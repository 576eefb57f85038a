"""Up to where signed checkpoints vouch for the entries, and from where on something is wrong.

Where the tree is not what it should be, the leaf hashes alone cannot tell which of them is wrong.
A signed checkpoint that fits vouches for all positions below its size; a stored node that does
not fit names the positions that it covers. The position that is told is the first that can be
wrong. A checkpoint that does not fit is told once for each time that one fitted before it.

After a restore of an old backup, a `ledger.restored` event begins another origin. Checkpoints of
the old origin must fit up to that event's position. Larger ones cover what was lost, as far as the
event names them.
"""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secrets_broker.ledger.transparency_log.merkle import TILE_HEIGHT
from secrets_broker.tools.verify.checks.checkpoints import JudgedCheckpoint, KeptCheckpoint, covered
from secrets_broker.tools.verify.checks.checkpoints import beyond as told_beyond
from secrets_broker.tools.verify.checks.facts import Fact
from secrets_broker.tools.verify.checks.findings import MAX_PROBLEMS, Findings, Violation

MAX_ORIGINS = 1_000


@dataclass(frozen=True, slots=True)
class WrongNode:
    """A stored node that is not the root of the leaves below it, or is not there."""

    level: int
    index: int

    @property
    def start(self) -> int:
        """The first position below it."""
        return self.index << TILE_HEIGHT * self.level

    @property
    def end(self) -> int:
        """The position after the last below it."""
        return self.index + 1 << TILE_HEIGHT * self.level


@dataclass(frozen=True, slots=True)
class _Restoration:
    position: int
    origin: str
    size: int
    new_origin: str


@dataclass(slots=True)
class _Origin:
    first: int
    largest: int


class Trust:
    """Takes nodes and heads in the order of what they cover."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._waiting: list[WrongNode] = []
        self._restorations: list[_Restoration] = []
        self._origins: dict[str, _Origin] = {}
        self._misfit = False
        self._vouched = 0
        self.size = 0
        """The size of the largest signed checkpoint that fits."""

    def wrong_nodes(self, nodes: Iterable[WrongNode]) -> None:
        """Nodes that do not fit; the next checkpoint says whether they or the entries are wrong."""
        for node in nodes:
            if len(self._waiting) < MAX_PROBLEMS:
                self._waiting.append(node)
            else:
                self._blame(node)

    def restored(self, fact: Fact) -> None:
        """Take in a `ledger.restored` event."""
        details = fact.details or {}
        match [details.get(name) for name in ("origin", "size", "new_origin")]:
            case [str(origin), int(size), str(new)] if len(self._restorations) < MAX_ORIGINS:
                self._restorations.append(_Restoration(fact.position, origin, size, new))
            case _:
                detail = "ledger.restored does not name what was restored"
                self._findings.wrong(fact.position, "entry", detail)

    def head(self, head: JudgedCheckpoint, root: bytes | None) -> None:
        """A checkpoint, and the root that was computed at its size (None: not known)."""
        checked = self._findings.checked
        checked["checkpoints"] += 1
        checked["signatures"] += head.signatures
        checked["cosignatures"] += head.cosignatures
        if head.source is None:
            self._count_origin(head)
        if not head.trusted:
            return
        if root is None:
            self._findings.left_out("checkpoints above a position whose leaf hash is not there")
        elif head.root == root:
            self._fits(head)
        elif self._restored_before(head.origin, head.size) is None or head.source is not None:
            self._does_not_fit(head, root)

    def finish(
        self, size: int, published: tuple[str, int] | None, beyond: Sequence[KeptCheckpoint]
    ) -> None:
        """Say of nodes, origins and checkpoints of more events what could not be said before."""
        for node in self._waiting:
            self._blame(node)
        self._waiting.clear()
        allowed = {restoration.new_origin for restoration in self._restorations}
        allowed |= {r.origin for r in self._restorations[:1]}
        if not self._restorations:
            allowed |= {published[0]} if published else set(list(self._origins)[:1])
        for name, origin in self._origins.items():
            if name not in allowed:
                detail = f"checkpoint of size {origin.first}: its origin is not this ledger's"
                self._findings.wrong(covered(origin.first), "checkpoint", detail)
        for kept in beyond:
            if kept.source is not None or not self._excused(kept.origin, kept.size):
                self._findings.add(self._beyond(size, kept))
        self._published(size, published)

    def _beyond(self, size: int, kept: KeptCheckpoint) -> Violation:
        lost = self._restored_before(kept.origin, kept.size)
        if lost is None or kept.source is None:
            return told_beyond(size, kept)
        detail = (
            f"the checkpoint kept in {kept.source} is of {kept.origin!r}, size {kept.size}: "
            f"ledger.restored says that from position {lost.position} on this was lost"
        )
        return Violation(lost.position, "since", detail)

    def _published(self, ledger: int, published: tuple[str, int] | None) -> None:
        if published is None:
            if self._origins:
                first = min(origin.first for origin in self._origins.values())
                self._findings.wrong(
                    covered(first), "checkpoint", "there are checkpoints, and none is published"
                )
            return
        name, size = published
        known = self._origins.get(name)
        if known is None or known.largest != size:
            detail = f"the published checkpoint (size {size}) is not the largest of its origin"
            self._findings.wrong(min(covered(size), ledger), "checkpoint", detail)
        if self._restorations and self._restorations[-1].new_origin != name:
            detail = "the published checkpoint is not of the origin that the ledger went on under"
            self._findings.wrong(covered(size), "checkpoint", detail)

    def _count_origin(self, head: JudgedCheckpoint) -> None:
        known = self._origins.get(head.origin)
        if known is not None:
            known.largest = max(known.largest, head.size)
        elif len(self._origins) < MAX_ORIGINS:
            self._origins[head.origin] = _Origin(head.size, head.size)
        lost = self._restored_before(head.origin, head.size)
        if lost is not None and not self._excused(head.origin, head.size):
            detail = (
                f"checkpoint of size {head.size}: after position {lost.position}, where the ledger "
                "was restored, its origin has no checkpoints"
            )
            self._findings.wrong(covered(head.size), "checkpoint", detail)

    def _excused(self, origin: str, size: int) -> bool:
        for one in self._restorations:
            if origin == one.origin and one.position < size <= one.size:
                self._findings.remark(
                    f"checkpoints of {origin!r} above position {one.position} are of what a "
                    "restore lost, as ledger.restored says there"
                )
                return True
        return False

    def _restored_before(self, origin: str, size: int) -> _Restoration | None:
        for restoration in self._restorations:
            if origin == restoration.origin and size > restoration.position:
                return restoration
        return None

    def _fits(self, head: JudgedCheckpoint) -> None:
        size = head.size
        self._misfit = False
        self.size = max(self.size, size)
        if head.vouches:
            self._vouched = max(self._vouched, size)
        for node in [node for node in self._waiting if node.end <= size]:
            self._waiting.remove(node)
            self._findings.wrong(
                node.start,
                "node",
                f"the stored node ({node.level}, {node.index}) is wrong or missing; the entries "
                f"below it are those of the signed checkpoint of size {size}",
            )

    def _does_not_fit(self, head: JudgedCheckpoint, root: bytes) -> None:
        if self._misfit and head.source is None:
            self._findings.checked["checkpoints that do not fit either"] += 1
            return
        self._misfit = True
        for node in self._waiting:
            self._blame(node)
        self._waiting.clear()
        lost = self._restored_before(head.origin, head.size)
        if head.vouches and lost is None:
            self._contradicted(head, root)
            return
        start = min(self.size, covered(head.size))
        known = self._findings.first_within(start, head.size)
        at = start if known is None else known
        if lost is not None:
            at = lost.position
        self._findings.wrong(
            at,
            "since" if head.source else "checkpoint",
            f"{_disagreement(head, root)}: what is wrong is from position {at} to {head.size - 1}"
            + (f"; ledger.restored at {lost.position} says what was lost" if lost else ""),
        )

    def _contradicted(self, head: JudgedCheckpoint, root: bytes) -> None:
        """What was kept elsewhere does not fit: so nothing that was kept here vouches any more."""
        start, last = min(self._vouched, covered(head.size)), covered(head.size)
        check = "since" if head.source else "checkpoint"
        if (known := self._findings.first_within(start, head.size)) is not None:
            where = (
                f"{known} is wrong, and nothing kept elsewhere vouches for {start} and what follows"
            )
            self._findings.wrong(known, check, f"{_disagreement(head, root)}: {where}")
            return
        where = (
            f"from position {start} to {last}, since up to there a checkpoint kept elsewhere fits"
            if start
            else f"at or before position {last}: nothing kept elsewhere says more"
        )
        detail = f"{_disagreement(head, root)}: what is wrong is {where}"
        self._findings.wrong_within(start, last, check, detail)

    def _blame(self, node: WrongNode) -> None:
        # Not this one's first entries, if a checkpoint vouches for them.
        start = max(node.start, min(self.size, node.end - 1))
        known = self._findings.first_within(start, node.end)
        at = start if known is None else known
        self._findings.wrong(
            at,
            "node",
            f"the entries from position {start} to {node.end - 1} do not lead to the stored node "
            f"({node.level}, {node.index}): one of them, or the node, was changed",
        )


def _disagreement(head: JudgedCheckpoint, root: bytes) -> str:
    whose = f", kept in {head.source}" if head.source else ""
    return (
        f"the signed checkpoint of {head.origin!r}, size {head.size}{whose}, has the root "
        f"{b64encode(head.root).decode()}, and the entries lead to {b64encode(root).decode()}"
    )

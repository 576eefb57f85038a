"""Takes examined ranges in order, and holds what reaches across them.

Bounded memory: the tree's right edge, the origins, at most MAX_PROBLEMS problems, and what is kept
of names and data keys, which continues in temporary files past a limit. Nothing in here grows with
the number of events or of checkpoints.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

from secrets_broker.ledger.event_macs.acceptance import Span, in_force, ranges
from secrets_broker.ledger.event_types import LEDGER_DISOWNED, LEDGER_RESTORED, ROTATIONS
from secrets_broker.tools.verify.checks.checkpoints import KeptCheckpoint
from secrets_broker.tools.verify.checks.credential_histories import CredentialHistories
from secrets_broker.tools.verify.checks.disk_mapping import LIMIT, Spill
from secrets_broker.tools.verify.checks.facts import Fact
from secrets_broker.tools.verify.checks.findings import Findings
from secrets_broker.tools.verify.checks.kek_states import KekStates
from secrets_broker.tools.verify.checks.ranges import Examined, unmarshal
from secrets_broker.tools.verify.checks.subtree import Spine, Stored
from secrets_broker.tools.verify.checks.trust import Trust, WrongNode


class Checker:
    """`take` every range in order, then `finish`; and `close` in any case.

    `stored` gives the stored nodes above level 1.
    """

    def __init__(
        self,
        stored: Stored,
        findings: Findings,
        limit: int = LIMIT,
        *,
        disowned: tuple[Span, ...] = (),
    ) -> None:
        self.disowned = disowned
        """What is left out: it has to be known before."""
        self._disowned_by: list[tuple[int, tuple[Span, ...]]] = []
        self.findings = findings
        self.histories = CredentialHistories(limit)
        self.rotations = KekStates()
        self._stored = stored
        self._spine = Spine()
        self._trust = Trust(findings)
        self._last_at: str | None = None
        self._readable = True
        self._bodies_missing = Spill(limit)
        self._bodies_there = Spill(limit)

    @property
    def size(self) -> int:
        """How many positions were taken in."""
        return self._spine.size

    @property
    def found_disowned(self) -> tuple[Span, ...]:
        """What ledger.disowned events say is to be left out, but for those that are left out."""
        return in_force(self._disowned_by)

    @property
    def root(self) -> bytes | None:
        """The root of all entries so far; None where a leaf hash is not there."""
        return self._spine.root()

    @property
    def is_readable(self) -> bool:
        """Whether every entry so far could be read."""
        return self._readable

    def has_body(self, key: str) -> bool:
        """Whether a body under that data key is there."""
        return self._bodies_there.get(key) is not None

    def close(self) -> None:
        """Let go of temporary files."""
        self.histories.close()
        self._bodies_missing.close()
        self._bodies_there.close()

    def take(self, examined: Examined) -> None:
        """The next range, which begins where the last one ended."""
        if examined.first != self.size:
            raise ValueError(f"the next range begins at {self.size}, not at {examined.first}")
        self.findings.add(*examined.problems)
        self.findings.checked.update(examined.checked)
        self._time(examined)
        self._facts(examined)
        _first_positions(self._bodies_missing, examined.bodies_missing)
        _first_positions(self._bodies_there, examined.bodies_there)
        self._trust.wrong_nodes(WrongNode(1, index) for index in examined.wrong_tiles)
        for head in examined.heads:
            self._trust.head(head, self._spine.root(head.edge))
        self._grow(examined)

    def finish(
        self,
        published: tuple[str, int] | None,
        beyond: Sequence[KeptCheckpoint] = (),
        erased_later: Collection[str] = frozenset(),
    ) -> None:
        """Say what could only be said at the end.

        `published` is where the ledger says it is; `beyond` are kept checkpoints of more events
        than there are, the largest of each origin; `erased_later` are data keys that were erased
        by events after the last one that was taken in.
        """
        self._trust.finish(self.size, published, beyond)
        if left_out := self.size - self.findings.checked["events"]:
            self.findings.left_out(f"{left_out} entries that are not there, or cannot be read")
        for key, value in self._bodies_missing.items():
            if self.histories.erased_at(key) is None and key not in erased_later:
                detail = "the body is not there, and no erasure says that it was destroyed"
                self.findings.follows(value[0], "body", detail)
        for key, position in self.histories.erased():
            if self.has_body(key):
                detail = "a body is there whose data key this erasure says was destroyed"
                self.findings.wrong(position, "erasure", detail)
        unsigned = self.size - self._trust.size
        if unsigned > 0:
            self.findings.remark(f"the newest {unsigned} events are under no signed checkpoint")

    def _time(self, examined: Examined) -> None:
        before, at = self._last_at, examined.first_at
        if before is not None and at is not None and at < before:
            detail = "the event is earlier than the one before it"
            self.findings.wrong(examined.first, "time", detail)
        self._last_at = examined.last_at or before

    def _facts(self, examined: Examined) -> None:
        for fact in self._ordered(examined):
            if fact.type == LEDGER_DISOWNED:
                self._disowned_by.append((fact.position, ranges(fact.details)))
            elif fact.type == LEDGER_RESTORED:
                self._trust.restored(fact)
            elif fact.type in ROTATIONS:
                if problem := self.rotations.take(fact):
                    self.findings.wrong(fact.position, "key", problem)
            elif not self._readable:
                self.histories.note_erased(fact)
            elif not self.histories.allows(fact):
                self.findings.add(*self.histories.take(fact))

    def _ordered(self, examined: Examined) -> Iterator[Fact]:
        missing = examined.first_missing
        if missing is None:
            yield from unmarshal(examined.facts)
            return
        for fact in unmarshal(examined.facts):
            self._stop_at(missing, fact.position)
            yield fact
        self._stop_at(missing, examined.first + examined.count)

    def _stop_at(self, missing: int, position: int) -> None:
        # What follows a missing entry depends on it, and would only repeat that it is missing.
        if self._readable and missing < position:
            self._readable = False
            self.findings.left_out(
                f"the credentials' ids and versions from position {missing} on, since an entry "
                "is missing there"
            )

    def _grow(self, examined: Examined) -> None:
        wrong = []
        for level, index, hash_ in self._spine.append(examined.edge, self._stored):
            self.findings.checked["nodes"] += 1
            if self._stored(level, index) != hash_:
                wrong.append(WrongNode(level, index))
        self._trust.wrong_nodes(wrong)


def _first_positions(kept: Spill, found: Iterable[tuple[str, int]]) -> None:
    for key, position in found:
        if kept.get(key) is None:
            kept.put(key, (position,))

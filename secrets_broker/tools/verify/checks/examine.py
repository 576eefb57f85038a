"""One range of the ledger, looked at alone: entries, leaf hashes, tiles, bodies, signatures.

What depends on other ranges is handed on to the Checker.
"""

import marshal
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec

from secrets_broker.ledger.event_macs.acceptance import Span
from secrets_broker.ledger.event_types import FOLLOWED, READ
from secrets_broker.ledger.transparency_log.merkle import TILE_WIDTH, leaf_hash
from secrets_broker.ledger.transparency_log.note import VerifierKey
from secrets_broker.tools.verify.checks.checkpoints import KeptCheckpoint, judge
from secrets_broker.tools.verify.checks.facts import (
    Entry,
    decode,
    digest,
    encode,
    fact,
    is_time,
    problem_of,
)
from secrets_broker.tools.verify.checks.findings import Violation
from secrets_broker.tools.verify.checks.ranges import Examined, Loaded
from secrets_broker.tools.verify.checks.subtree import Hash, Subtree


class _Range:
    """The state of one examination."""

    def __init__(self, loaded: Loaded, disowned: Sequence[Span] = ()) -> None:
        self.loaded = loaded
        self._disowned = disowned
        self.problems = list(loaded.problems)
        self.computed: list[Hash] = []
        self.facts: list[tuple[Any, ...]] = []
        self.missing: list[tuple[str, int]] = []
        self.there: list[tuple[str, int]] = []
        self.first_at: str | None = None
        self.last_at: str | None = None
        self.first_missing: int | None = None
        self._second = ""
        self._last_read: dict[tuple[str | None, str | None], tuple[int | None, ...]] = {}

    def wrong(self, position: int, check: str, detail: str) -> None:
        # All are kept, a few for each event at most: the first may be found last.
        self.problems.append(Violation(position, check, detail))

    def entries(self) -> None:
        """Every entry: its bytes, its leaf hash, its time, its body."""
        computed, canonical = self.computed, self.loaded.canonical
        for position, raw in enumerate(self.loaded.entries, self.loaded.first):
            if raw is None:
                self._unreadable(position)
                computed.append(None)
                continue
            try:
                entry = decode(raw)
                bytes_ = encode(entry)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                self._unreadable(position)
                self.wrong(position, "entry", "the entry is not one of this format")
                computed.append(leaf_hash(raw) if canonical else None)
                continue
            if canonical and bytes_ != raw:
                self.wrong(position, "entry", "the entry is not written in its canonical form")
                bytes_ = raw
            computed.append(sha256(b"\x00" + bytes_).digest())  # leaf_hash, without its call
            self._entry(position, entry, bytes_)

    def leaves(self) -> list[Hash]:
        """The leaf hashes as they are stored, held against the entries'."""
        computed = self.computed
        stored = computed if self.loaded.leaves is None else self.loaded.leaves
        if stored == computed and None not in computed:
            return computed
        pairs = enumerate(zip(stored, computed, strict=True), self.loaded.first)
        for position, (kept, made) in pairs:
            if None not in (kept, made) and kept != made and not self._is_disowned(position):
                self.wrong(position, "leaf", "the entry does not have the leaf hash that is stored")
            if kept is None and not self.loaded.told:
                check, what = ("missing", "event") if made is None else ("leaf", "leaf hash")
                self.wrong(position, check, f"there is no {what} at this position")
        return [kept or made for kept, made in zip(stored, computed, strict=True)]

    def _unreadable(self, position: int) -> None:
        if self.first_missing is None:
            self.first_missing = position

    def _is_disowned(self, position: int) -> bool:
        return any(first <= position <= last for first, last in self._disowned)

    def _entry(self, position: int, entry: Entry, raw: bytes) -> None:
        if self._disowned and self._is_disowned(position):
            return  # its leaf stays in the tree, and nothing follows from what it says
        if (at := entry.at) != self.last_at:
            self._time(position, at)
        problem = problem_of(entry, raw)
        if problem is not None:
            self.wrong(position, "entry", problem)
            return
        if entry.body is not None or self.loaded.bodies:
            self._body(position, entry)
        if entry.type in FOLLOWED:
            self._follow(position, entry)

    def _time(self, position: int, at: str) -> None:
        # Most differ from the one before in their last digits only.
        digits = at[20:26]
        usual = at[:20] == self._second and len(at) == 27 and at[26] == "Z"
        if not (usual and digits.isascii() and digits.isdecimal()) and not is_time(at):
            self.wrong(position, "entry", "its time is not written as the format says")
            return
        self._second = at[:20]
        if self.last_at is None:
            self.first_at = at
        elif at < self.last_at:
            self.wrong(position, "time", "the event is earlier than the one before it")
        self.last_at = at

    def _follow(self, position: int, entry: Entry) -> None:
        # Of two disclosures in a row of one name and version, one tells all.
        name = entry.host, entry.purpose
        if entry.type != READ:
            self._last_read.pop(name, None)
        elif entry.ok and entry.body is None and entry.details is None:
            told = (entry.credential_id, entry.version)
            if self._last_read.get(name) == told:
                return
            self._last_read[name] = told
        self.facts.append(fact(position, entry))

    def _body(self, position: int, entry: Entry) -> None:
        bodies = self.loaded.bodies
        if bodies is None:
            return
        body, stored = entry.body, bodies.get(position)
        if body is None:
            if stored is not None:
                self.wrong(position, "body", "there is a body for an event that has none")
        elif stored is None:
            self.missing.append((body.key, position))
        elif stored.key != body.key:
            self.wrong(position, "body", "the body is filed under another data key")
        elif stored.digest != digest(body):
            self.wrong(position, "body", "the body is not the one that the event names")
        else:
            self.there.append((body.key, position))

    def tree(self) -> tuple[Subtree, list[int]]:
        """The levels over the leaves as they are stored, and the tiles that are wrong."""
        leaves, nodes = self.leaves(), self.loaded.nodes
        subtree = Subtree(leaves)
        if leaves is not self.computed and _misfits(subtree.tiles, nodes):
            # Where only leaf hashes were changed, the entries still lead to the nodes.
            pairs = zip(leaves, self.computed, strict=True)
            by_entries = Subtree([made or kept for kept, made in pairs])
            if not _misfits(by_entries.tiles, nodes):
                subtree = by_entries
        wrong = [
            self.loaded.first // TILE_WIDTH + index
            for index in _misfits(subtree.tiles, nodes)
            if not (self.loaded.told and nodes[index] is None)
        ]
        tiles = zip(subtree.tiles, nodes, strict=True)
        subtree.settle([node if tile is None else tile for tile, node in tiles])
        return subtree, wrong


def _misfits(tiles: Sequence[Hash], nodes: Sequence[Hash]) -> list[int]:
    pairs = enumerate(zip(tiles, nodes, strict=True))
    return [index for index, (tile, node) in pairs if tile is not None and tile != node]


def examine(
    loaded: Loaded,
    kept: Sequence[KeptCheckpoint],
    keys: Sequence[VerifierKey],
    disowned: Sequence[Span] = (),
) -> Examined:
    """Look at one range, and at the checkpoints whose size ends within it.

    Of the events at `disowned` positions only the leaves are looked at.
    """
    work = _Range(loaded, disowned)
    work.entries()
    subtree, wrong_tiles = work.tree()
    heads = []
    for one in kept:
        head, problems = judge(one, keys, subtree.edge(max(one.size - loaded.first, 0)))
        heads.append(head)
        for problem in problems:
            work.wrong(problem.position or 0, problem.check, problem.detail)
    checked = Counter(
        events=sum(raw is not None for raw in loaded.entries),
        leaves=sum(leaf is not None for leaf in loaded.leaves or ()),
        nodes=sum(node is not None for node in loaded.nodes),
        bodies=len(loaded.bodies or ()),
    )
    return Examined(
        first=loaded.first,
        count=len(loaded.entries),
        edge=subtree.edge(len(loaded.entries)),
        wrong_tiles=wrong_tiles,
        heads=heads,
        facts=marshal.dumps(work.facts),
        bodies_missing=work.missing,
        bodies_there=work.there,
        first_at=work.first_at,
        last_at=work.last_at,
        first_missing=work.first_missing,
        checked=checked,
        problems=work.problems,
    )

"""Inclusion and consistency proofs (RFC 9162, sections 2.1.3 and 2.1.4).

A proof is a list of hashes of ranges of leaves. Every range is made of perfect subtrees, and a
perfect subtree of height h is the root of 2^(h mod 8) hashes in a row of the stored level
floor(h / 8). So a proof is planned first (`plan_inclusion`, `plan_consistency`: which `Run`s of
stored hashes it needs), then read, wherever the hashes are kept, then computed (`compute`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from secrets_broker.ledger.transparency_log.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    TILE_HEIGHT,
    node_hash,
    parents,
)


class ProofError(ValueError):
    """A proof that does not prove what it should."""


@dataclass(frozen=True, slots=True)
class Run:
    """Hashes `first` to `first + count` of a stored level: leaf hashes at 0, nodes above."""

    level: int
    first: int
    count: int


Range = tuple[int, int]
Plan = list[list[Run]]
"""For each hash of a proof, the runs that its range of leaves is made of, left to right."""


def plan_inclusion(index: int, size: int) -> Plan:
    """For the leaf at an index in a tree of that size; raises ProofError."""
    if not 0 <= index < size:
        raise ProofError(f"a tree of {size} has no leaf {index}")
    return [list(_runs(*part)) for part in _path(index, 0, size)]


def plan_consistency(old: int, size: int) -> Plan:
    """From a tree of size `old` to one of `size`; raises ProofError."""
    if not 0 <= old <= size:
        raise ProofError(f"a tree of {size} does not extend one of {old}")
    if old in (0, size):
        return []
    return [list(_runs(*part)) for part in _subproof(old, 0, size, whole=True)]


def plan_root(size: int) -> Plan:
    """For the root of a tree of that size, which is then the only hash."""
    return [list(_runs(0, size))] if size else []


def compute(plan: Plan, hashes: Mapping[Run, Sequence[bytes]]) -> list[bytes]:
    """A plan's hashes, computed from its runs; raises ProofError if one is missing."""
    return [_range_hash(runs, hashes) for runs in plan]


def runs(plan: Plan) -> list[Run]:
    """Every run of a plan, once."""
    return list(dict.fromkeys(run for part in plan for run in part))


def verify_inclusion(
    index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes
) -> None:
    """Raise ProofError unless the leaf is at that index of the tree (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        raise ProofError("the index is not within the tree")
    if len(leaf) != HASH_BYTES:
        raise ProofError("the leaf hash is none")
    node, last, hash_ = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError("the inclusion proof is too long")
        if node & 1 or node == last:
            hash_ = node_hash(sibling, hash_)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            hash_ = node_hash(hash_, sibling)
        node, last = node >> 1, last >> 1
    if last or hash_ != root:
        raise ProofError("the inclusion proof does not lead to the root")


def verify_consistency(
    old: int, size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]
) -> None:
    """Raise ProofError unless the tree extends the old one (RFC 9162, 2.1.4.2).

    An empty old tree is refused, since nothing is provable from it: see `verify_extension`.
    """
    if not 0 < old <= size:
        raise ProofError("the old tree is empty, or larger")
    if old == size:
        if proof or old_root != root:
            raise ProofError("the old tree's root is another one")
        return
    given = list(proof)
    if not given:
        raise ProofError("the consistency proof is empty")
    if old & (old - 1) == 0:  # a perfect tree is its own first hash
        given.insert(0, old_root)
    if _consistent_roots(old, size, given) != (old_root, root):
        raise ProofError("the consistency proof does not lead to both roots")


def verify_extension(
    old: int, size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]
) -> None:
    """As `verify_consistency`, but every tree extends an empty one, without a proof."""
    if old != 0:
        verify_consistency(old, size, old_root, root, proof)
    elif size < 0 or proof or old_root != EMPTY_ROOT or (size == 0 and root != EMPTY_ROOT):
        raise ProofError("the old tree is empty, and its root or the proof are not")


def _consistent_roots(old: int, size: int, proof: Sequence[bytes]) -> tuple[bytes, bytes]:
    node, last = old - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    before = after = proof[0]
    for hash_ in proof[1:]:
        if last == 0:
            raise ProofError("the consistency proof is too long")
        if node & 1 or node == last:
            before, after = node_hash(hash_, before), node_hash(hash_, after)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            after = node_hash(after, hash_)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofError("the consistency proof is too short")
    return before, after


def _split(start: int, end: int) -> int:
    """Where a tree splits: after the largest power of two smaller than its size."""
    return start + (1 << (end - start - 1).bit_length() - 1)


def _path(index: int, start: int, end: int) -> Iterator[Range]:
    if end - start == 1:
        return
    middle = _split(start, end)
    if index < middle:
        yield from _path(index, start, middle)
        yield middle, end
    else:
        yield from _path(index, middle, end)
        yield start, middle


def _subproof(old: int, start: int, end: int, *, whole: bool) -> Iterator[Range]:
    """PROOF of RFC 9162, 2.1.4.1; `whole` says that the old root covers this very range."""
    if old == end:
        if not whole:
            yield start, end
        return
    middle = _split(start, end)
    if old <= middle:
        yield from _subproof(old, start, middle, whole=whole)
        yield middle, end
    else:
        yield from _subproof(old, middle, end, whole=False)
        yield start, middle


def _runs(start: int, end: int) -> Iterator[Run]:
    """A range's perfect subtrees, left to right; its start is a multiple of its largest one."""
    while start < end:
        height = (end - start).bit_length() - 1
        level, rest = divmod(height, TILE_HEIGHT)
        yield Run(level, start >> TILE_HEIGHT * level, 1 << rest)
        start += 1 << height


def _range_hash(parts: Iterable[Run], hashes: Mapping[Run, Sequence[bytes]]) -> bytes:
    roots = [_run_root(run, hashes[run]) for run in parts]
    found = roots.pop()
    while roots:
        found = node_hash(roots.pop(), found)
    return found


def _run_root(run: Run, hashes: Sequence[bytes]) -> bytes:
    if len(hashes) != run.count:
        raise ProofError(f"level {run.level} has no {run.count} hashes from {run.first} on")
    # A run is 2^n hashes: a perfect tree, level by level. A frontier would take twice as long.
    level = hashes
    while len(level) > 1:
        level = parents(level)
    return level[0]

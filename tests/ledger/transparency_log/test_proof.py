"""Proofs hold for every leaf and every pair of sizes, and no changed bit passes."""

from base64 import b64decode
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.transparency_log.merkle import Frontier, leaf_hash
from secrets_broker.ledger.transparency_log.proof import (
    Plan,
    ProofError,
    Run,
    compute,
    plan_consistency,
    plan_inclusion,
    plan_root,
    runs,
    verify_extension,
    verify_inclusion,
)
from tests.ledger.transparency_log.vectors import TESSERA_ENTRIES, TESSERA_ROOTS

LARGEST = 65_537
EDGES = [255, 256, 257, 65_535, 65_536, LARGEST]
sizes = st.one_of(st.integers(1, 2_000), st.sampled_from(EDGES))


@cache
def leaves() -> list[bytes]:
    """Leaf hashes of a long log."""
    return [leaf_hash(str(position).encode()) for position in range(LARGEST)]


@cache
def levels() -> list[list[bytes]]:
    """What is stored of it: leaf hashes, and the nodes above."""
    stored: list[list[bytes]] = [leaves(), [], []]
    for node in Frontier().extend(leaves())[1]:
        stored[node.level].append(node.hash)
    return stored


@cache
def root(size: int) -> bytes:
    """By the frontier, which has vectors of its own."""
    return Frontier().extend(leaves()[:size])[0].root()


def made(plan: Plan, stored: Sequence[Sequence[bytes]] | None = None) -> list[bytes]:
    """A plan's hashes, from what is stored."""
    rows = stored or levels()
    found = {run: rows[run.level][run.first : run.first + run.count] for run in runs(plan)}
    return compute(plan, found)


def changed(proof: Sequence[bytes], bit: int) -> list[bytes]:
    """A proof with one bit changed."""
    joined = bytearray(b"".join(proof))
    joined[bit // 8] ^= 1 << bit % 8
    return [bytes(joined[at : at + 32]) for at in range(0, len(joined), 32)]


@given(sizes, st.data())
def test_every_leaf_has_an_inclusion_proof(size: int, data: st.DataObject) -> None:
    """It verifies for this leaf, index, size and root, and for no other."""
    index = data.draw(st.integers(0, size - 1))
    leaf, proof = leaves()[index], made(plan_inclusion(index, size))
    verify_inclusion(index, size, leaf, proof, root(size))
    assert len(proof) <= (size - 1).bit_length()
    for other in (index - 1, index + 1):
        with pytest.raises(ProofError):
            verify_inclusion(other, size, leaf, proof, root(size))
    with pytest.raises(ProofError):
        verify_inclusion(index, size, leaf, [*proof, leaf], root(size))
    with pytest.raises(ProofError):
        verify_inclusion(
            index, size, changed([leaf], data.draw(st.integers(0, 255)))[0], proof, root(size)
        )
    if proof:
        bit = data.draw(st.integers(0, len(proof) * 256 - 1))
        for broken in (changed(proof, bit), proof[:-1], proof[1:]):
            with pytest.raises(ProofError):
                verify_inclusion(index, size, leaf, broken, root(size))


@given(sizes, st.data())
def test_every_pair_of_sizes_has_a_consistency_proof(size: int, data: st.DataObject) -> None:
    """It verifies for these two roots, and no changed bit, size or root passes."""
    edges = st.sampled_from([0, *(edge for edge in EDGES if edge <= size)])
    old = data.draw(st.one_of(st.integers(0, size), edges))
    proof = made(plan_consistency(old, size))
    verify_extension(old, size, root(old), root(size), proof)
    if old:  # every tree extends the empty one
        with pytest.raises(ProofError):
            verify_extension(old, size, root(old), changed([root(size)], 7)[0], proof)
    with pytest.raises(ProofError):
        verify_extension(old, size, changed([root(old)], 7)[0], root(size), proof)
    with pytest.raises(ProofError):
        verify_extension(old, size, root(old), root(size), [*proof, bytes(32)])
    if proof:
        bit = data.draw(st.integers(0, len(proof) * 256 - 1))
        for broken in (changed(proof, bit), proof[:-1], proof[1:]):
            with pytest.raises(ProofError):
                verify_extension(old, size, root(old), root(size), broken)


def test_every_pair_of_small_sizes() -> None:
    """None left out, up to 64."""
    for size in range(65):
        for old in range(size + 1):
            verify_extension(old, size, root(old), root(size), made(plan_consistency(old, size)))
        for index in range(size):
            proof = made(plan_inclusion(index, size))
            verify_inclusion(index, size, leaves()[index], proof, root(size))


def test_proofs_lead_to_another_implementations_roots() -> None:
    """Between every two of the trees that Tessera signed, and for every entry of each."""
    stored = [[leaf_hash(entry) for entry in TESSERA_ENTRIES]]
    roots = [b64decode(text) for text in TESSERA_ROOTS]
    for size in range(1, len(roots)):
        for index in range(size):
            proof = made(plan_inclusion(index, size), stored)
            verify_inclusion(index, size, stored[0][index], proof, roots[size])
        for old in range(size + 1):
            proof = made(plan_consistency(old, size), stored)
            verify_extension(old, size, roots[old], roots[size], proof)


def test_published_proofs() -> None:
    """Of RFC 6962's reference implementation: a path of leaf 5 in 8, and 6 to 8."""
    entries = " 00 10 2021 3031 40414243 5051525354555657 606162636465666768696a6b6c6d6e6f"
    stored = [[leaf_hash(bytes.fromhex(entry)) for entry in entries.split(" ")]]
    assert [hash_.hex() for hash_ in made(plan_inclusion(5, 8), stored)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [hash_.hex() for hash_ in made(plan_consistency(6, 8), stored)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 65_536, LARGEST])
def test_a_root_has_a_plan_too(size: int) -> None:
    """The root at any size that was, from what is stored now."""
    assert made(plan_root(size)) == [root(size)]


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 1), (1, 1), (9, 8)])
def test_no_leaf_no_proof(index: int, size: int) -> None:
    """A leaf that is not in the tree."""
    with pytest.raises(ProofError):
        plan_inclusion(index, size)
    with pytest.raises(ProofError):
        verify_inclusion(index, size, bytes(32), [], bytes(32))


@pytest.mark.parametrize(("old", "size"), [(-1, 0), (1, 0), (9, 8)])
def test_a_log_does_not_shrink(old: int, size: int) -> None:
    """A tree extends no larger one."""
    with pytest.raises(ProofError):
        plan_consistency(old, size)
    with pytest.raises(ProofError):
        verify_extension(old, size, bytes(32), bytes(32), [])


def test_missing_hashes_are_noticed() -> None:
    """A proof is not made of fewer hashes than it needs."""
    plan = plan_inclusion(0, 300)
    found = {run: levels()[run.level][run.first : run.first + run.count] for run in runs(plan)}
    short = {**found, Run(0, 128, 128): found[Run(0, 128, 128)][:-1]}
    with pytest.raises(ProofError, match="level 0"):
        compute(plan, short)

"""Receipts: what is proven offline, and that nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.merkle import Frontier, leaf_hash
from secrets_broker.ledger.transparency_log.note import SigningKey
from secrets_broker.ledger.transparency_log.proof import compute, plan_inclusion, runs
from secrets_broker.ledger.transparency_log.receipt import Receipt, ReceiptError

KEY = SigningKey("log.example", bytes(range(32)))
ENTRIES = [f"entry {position}".encode() for position in range(300)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]


def receipt(position: int, size: int, *, entry: bool = True) -> Receipt:
    """A right one."""
    frontier, nodes = Frontier().extend(LEAVES[:size])
    stored = [LEAVES[:size], [node.hash for node in nodes]]
    plan = plan_inclusion(position, size)
    found = {run: stored[run.level][run.first : run.first + run.count] for run in runs(plan)}
    signed = SignedCheckpoint.sign(Checkpoint(KEY.name, size, frontier.root()), KEY)
    proof = tuple(compute(plan, found))
    return Receipt(position, proof, signed, ENTRIES[position] if entry else None)


@given(st.integers(1, 300), st.data())
def test_a_receipt_is_read_back_and_verifies(size: int, data: st.DataObject) -> None:
    """For any event of any tree, with the entry within or its leaf hash given."""
    position = data.draw(st.integers(0, size - 1))
    made = receipt(position, size)
    assert Receipt.parse(str(made)) == made
    assert made.verify([KEY.verifier]) == [KEY.verifier]
    bare = Receipt.parse(str(receipt(position, size, entry=False)))
    assert bare.verify([KEY.verifier], LEAVES[position]) == [KEY.verifier]


@given(st.integers(0, 299), st.data())
def test_no_changed_character_passes(position: int, data: st.DataObject) -> None:
    """Whatever line it is in: the entry, the index, the proof or the checkpoint."""
    text = str(receipt(position, 300))
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("A1z+/= \n").filter(lambda c: c != text[at]))
    with pytest.raises(ReceiptError):
        Receipt.parse(text[:at] + other + text[at + 1 :]).verify([KEY.verifier])


def test_it_is_the_text_of_the_specification() -> None:
    """Header, extra data, index, hashes, a blank line, the checkpoint."""
    lines = str(receipt(1, 2)).split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1] == "extra ZW50cnkgMQ=="
    assert lines[2] == "index 1"
    assert len(lines[3]) == 44
    assert lines[4:7] == ["", "log.example", "2"]


def test_the_extra_data_is_not_trusted() -> None:
    """An entry that is not the leaf's, and no entry at all, prove nothing."""
    made = receipt(3, 10)
    other = Receipt(made.position, made.proof, made.checkpoint, b"entry 4")
    with pytest.raises(ReceiptError, match="does not lead to the root"):
        other.verify([KEY.verifier])
    with pytest.raises(ReceiptError, match="another leaf hash"):
        made.verify([KEY.verifier], LEAVES[4])
    with pytest.raises(ReceiptError, match="no entry"):
        receipt(3, 10, entry=False).verify([KEY.verifier])


def test_a_receipt_of_another_log_is_refused() -> None:
    """Its checkpoint is signed by a key that was not given."""
    with pytest.raises(ReceiptError, match="no key that was given"):
        receipt(0, 1).verify([SigningKey("log.example", bytes(32)).verifier])

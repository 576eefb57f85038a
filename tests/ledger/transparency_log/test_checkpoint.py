"""Checkpoints: another implementation's are read and verified; what is malformed is refused."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.transparency_log.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    open_checkpoint,
)
from secrets_broker.ledger.transparency_log.merkle import EMPTY_ROOT, Frontier, leaf_hash
from secrets_broker.ledger.transparency_log.note import (
    COSIGNATURE,
    NoteError,
    SigningKey,
    VerifierKey,
)
from tests.ledger.transparency_log.vectors import (
    TESSERA_ENTRIES,
    TESSERA_KEY,
    TESSERA_ROOTS,
    tessera_checkpoint,
)

KEY = SigningKey("log.example", bytes(range(32)))
SIGNED = SignedCheckpoint.sign(Checkpoint("log.example", 3, bytes(32)), KEY)


@pytest.mark.parametrize("size", range(16))
def test_checkpoints_of_another_implementation(size: int) -> None:
    """Tessera's: the signature verifies, and the root is that of the entries."""
    signed = open_checkpoint(tessera_checkpoint(size), [VerifierKey.parse(TESSERA_KEY)])
    leaves = [leaf_hash(entry) for entry in TESSERA_ENTRIES[:size]]
    assert signed.checkpoint.root == Frontier().extend(leaves)[0].root()
    assert signed.checkpoint.size == size
    assert str(signed) == tessera_checkpoint(size)


def test_an_empty_log_has_a_checkpoint() -> None:
    """Size 0, written 0, and the root of nothing."""
    assert Checkpoint("log.example", 0, EMPTY_ROOT).text.split("\n")[1] == "0"
    assert TESSERA_ROOTS[0] == b64encode(EMPTY_ROOT).decode()


@given(st.integers(0, 10**17), st.binary(min_size=32, max_size=32))
def test_what_is_signed_is_read_back(size: int, root: bytes) -> None:
    """Any size and root."""
    made = SignedCheckpoint.sign(Checkpoint("log.example", size, root), KEY)
    assert open_checkpoint(str(made), [KEY.verifier]) == made


def test_extension_lines_are_read_and_signed() -> None:
    """They are not ours to make, but they are part of what is verified."""
    text = f"{SIGNED.checkpoint.text}an extension\n"
    note = f"{text}\n{KEY.sign(text)}"
    assert open_checkpoint(note, [KEY.verifier]).checkpoint == SIGNED.checkpoint
    with pytest.raises(NoteError):
        open_checkpoint(note.replace("an ext", "no ext"), [KEY.verifier])


def test_a_key_of_another_name_is_not_the_logs() -> None:
    """A witness's key, or another log's, does not vouch for what this log says."""
    other = SigningKey("other.example", bytes(32))
    text = SIGNED.checkpoint.text
    note = f"{text}\n{other.sign(text)}"
    with pytest.raises(NoteError, match="no key that was given"):
        open_checkpoint(note, [other.verifier, KEY.verifier])


def test_a_witness_of_the_logs_name_is_not_the_log() -> None:
    """A witness chooses its own name; a cosignature under the log's does not make a checkpoint."""
    witness = SigningKey("log.example", bytes(32), COSIGNATURE)
    text = SIGNED.checkpoint.text
    note = f"{text}\n{witness.cosign(text, 1_700_000_000)}"
    with pytest.raises(NoteError, match="no key that was given"):
        open_checkpoint(note, [witness.verifier, KEY.verifier])


@pytest.mark.parametrize(
    ("this", "that"),
    [
        ("\n3\n", "\n03\n"),
        ("\n3\n", "\n+3\n"),
        ("\n3\n", "\n-3\n"),
        ("\n3\n", "\n3 \n"),
        ("\n3\n", "\n\u0663\n"),
        ("\n3\n", "\n1000000000000000000\n"),
        ("\n3\n", "\n\n3\n"),
        ("\n3\n", "\n"),
        ("log.example\n3", "3"),
        ("AAA=\n", "AA==\n"),
        ("AAA=\n", "AA!=\n"),
        ("AAA=\n", "AAA=\n\n"),
    ],
)
def test_a_malformed_checkpoint_is_refused(this: str, that: str) -> None:
    """Its text is held to the specification to the letter."""
    text = SIGNED.checkpoint.text.replace(this, that, 1)
    assert text != SIGNED.checkpoint.text
    with pytest.raises(NoteError):
        Checkpoint.parse_text(text)

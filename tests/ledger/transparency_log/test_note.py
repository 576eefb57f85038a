"""Signed notes: the published examples verify, and nothing that differs from them does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.transparency_log.note import (
    COSIGNATURE,
    MAX_SIGNATURES,
    Note,
    NoteError,
    Signature,
    SigningKey,
    VerifierKey,
)

# Of Go's golang.org/x/mod/sumdb/note, the reference implementation.
PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
SIGNED = f"""{TEXT}
— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
"""  # noqa: E501

# Of the specification (C2SP signed-note): an empty line within the text.
POEM = """\
Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
"""  # noqa: E501

seeds = st.binary(min_size=32, max_size=32)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=1).map(
    lambda name: name.replace("+", "-")
)
texts = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])), min_size=1
).map(lambda lines: "\n".join(lines) + "\n")


def test_the_published_example_is_signed_to_the_byte() -> None:
    """Ed25519 is deterministic: our note of the reference's text is the reference's note."""
    key = SigningKey.parse(PRIVATE)
    assert (key.private_text(), str(key.verifier)) == (PRIVATE, PUBLIC)
    assert str(Note(TEXT, (key.sign(TEXT),))) == SIGNED


def test_the_published_example_verifies() -> None:
    """And its text without the signatures is what was signed."""
    note, key = Note.parse(SIGNED), VerifierKey.parse(PUBLIC)
    assert (note.text, note.verified_by([key])) == (TEXT, [key])


def test_the_specifications_example_is_read_as_it_says() -> None:
    """The last empty line parts the text from the signatures, and an unknown key says nothing."""
    note = Note.parse(POEM)
    assert note.text.endswith("sole:\n\ned è subito sera.\n")
    (line,) = note.signatures
    assert (line.name, line.key_id.hex()) == ("quasimodo.example/salvatore", "367ba04b")
    assert len(line.signature) == 64
    assert str(note) == POEM
    assert note.verified_by([VerifierKey.parse(PUBLIC)]) == []


@given(names, seeds, texts, st.sampled_from([1, COSIGNATURE]))
def test_what_is_signed_verifies_and_is_read_back(
    name: str, seed: bytes, text: str, kind: int
) -> None:
    """Any text and any name that the format allows; keys survive being written down."""
    key = SigningKey(name, seed, kind)
    line = key.sign(text) if kind == 1 else key.cosign(text, 1_700_000_000)
    note = Note.parse(str(Note(text, (line,))))
    assert SigningKey.parse(key.private_text()) == key
    assert note.verified_by([VerifierKey.parse(str(key.verifier))]) == [key.verifier]


@given(seeds, texts, st.data())
def test_one_changed_bit_of_a_signature_is_refused(
    seed: bytes, text: str, data: st.DataObject
) -> None:
    """A known key's wrong signature condemns the note; it is not merely ignored."""
    key = SigningKey("log.example", seed)
    signature = bytearray(key.sign(text).signature)
    bit = data.draw(st.integers(0, len(signature) * 8 - 1))
    signature[bit // 8] ^= 1 << bit % 8
    line = Signature(key.name, key.verifier.key_id, bytes(signature))
    with pytest.raises(NoteError, match=r"signature of log\.example"):
        Note(text, (line,)).verified_by([key.verifier])


def test_a_cosignature_signs_its_time() -> None:
    """Another time with the same signature is refused; so is a plain signature in its place."""
    key = SigningKey("witness.example", bytes(32), COSIGNATURE)
    line = key.cosign(TEXT, 1_700_000_000)
    later = (1_700_000_001).to_bytes(8, "big") + line.signature[8:]
    assert key.verifier.verifies(TEXT, line.signature)
    assert not key.verifier.verifies(TEXT, later)
    assert not key.verifier.verifies(TEXT, SigningKey(key.name, key.seed).sign(TEXT).signature)


@pytest.mark.parametrize(
    "broken",
    [
        "",
        TEXT,
        SIGNED.rstrip("\n"),
        SIGNED.replace("\n\n", "\n"),
        SIGNED.replace("—", "-"),
        SIGNED.replace(" x08go", "x08go"),
        SIGNED.replace("x08go", "!08go"),
        SIGNED.replace("PeterNeumann", "Peter+Neumann"),
        SIGNED.replace("PeterNeumann", "Peter\u2003Neumann"),
        SIGNED.replace("If", "I\tf"),
        SIGNED.replace("If", "I\0f"),
        SIGNED + "\n",
        SIGNED + SIGNED.splitlines()[-1],
        TEXT + "\n",
        TEXT + "\n" + (SIGNED.splitlines()[-1] + "\n") * (MAX_SIGNATURES + 1),
        TEXT + "\n— PeterNeumann x08gow==\n",
    ],
)
def test_a_malformed_note_is_refused(broken: str) -> None:
    """As the specification's format says, to the letter."""
    with pytest.raises(NoteError):
        Note.parse(broken)


def test_every_part_of_a_key_alone_is_refused() -> None:
    """A key that was cut off or mistyped anywhere is no key."""
    for start in range(len(PUBLIC)):
        for end in range(start, len(PUBLIC) + 1):
            if (start, end) != (0, len(PUBLIC)):
                with pytest.raises(NoteError):
                    VerifierKey.parse(PUBLIC[start:end])


@pytest.mark.parametrize("at", range(len(PRIVATE)))
def test_a_mistyped_signing_key_is_refused_and_not_shown(at: int) -> None:
    """The error never quotes what may be all but one letter of a secret."""
    broken = PRIVATE[:at] + ("B" if PRIVATE[at] != "B" else "C") + PRIVATE[at + 1 :]
    with pytest.raises(NoteError) as caught:
        SigningKey.parse(broken)
    assert "AYEK" not in str(caught.value)
    assert "EKFALVFGy" not in repr(SigningKey.parse(PRIVATE))

"""What a witness decides, and what its requests look like: pure."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secrets_broker.ledger.transparency_log.add_checkpoint import (
    MAX_PROOF,
    MAX_REQUEST_BYTES,
    AddCheckpoint,
    CosignDecision,
    CosignedHead,
    Misbehaviour,
    RequestError,
    decide,
)
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.note import COSIGNATURE, Note, SigningKey
from tests.ledger.checkpoints import KEY as LOG
from tests.ledger.transparency_log.witness_requests import HONEST, LOGS, SIZES, fork, head, request

OTHER = SigningKey("other.example", bytes(reversed(range(32))))


def status(held: CosignedHead, asked: AddCheckpoint) -> tuple[int, Misbehaviour | None]:
    """What comes of it."""
    found = decide(LOGS, held, asked)
    return found.status, found.finding


def test_the_examples_form_is_read_and_written() -> None:
    """The request of the specification's example, with its signatures of unknown keys."""
    text = (
        "old 20852014\n"
        "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
        "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n"
        "\n"
        "example.com/behind-the-sofa\n"
        "20852163\n"
        "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
        "\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5"
        "/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    )
    parsed = AddCheckpoint.parse(text.encode())
    assert (parsed.old, len(parsed.proof)) == (20852014, 2)
    assert parsed.signed.checkpoint.size == 20852163
    assert parsed.encode() == text.encode()


@given(st.integers(0, 10**18 - 1), st.lists(st.binary(min_size=32, max_size=32), max_size=63))
def test_a_request_survives_encoding(old: int, hashes: list[bytes]) -> None:
    """Whatever the size and the proof."""
    asked = replace(request(HONEST, 0), old=old, proof=tuple(hashes))
    assert AddCheckpoint.parse(asked.encode()) == asked


NOTE = str(request(HONEST, 0).signed)
LINE = "A" * 43 + "="


@pytest.mark.parametrize(
    "body",
    [
        *("", "old 1", f"old 1\n{NOTE}", f"\n\n{NOTE}", f"new 1\n\n{NOTE}", f"old  1\n\n{NOTE}"),
        *(f"old {size}\n\n{NOTE}" for size in ("", "-1", "01", "+1", "1 ", "1_0", "٣", "9" * 19)),
        *(f"old 1\n{line}\n\n{NOTE}" for line in ("AAAA", "?", LINE[:-1], LINE + " ", LINE * 2)),
        "old 1\n" + f"{LINE}\n" * (MAX_PROOF + 1) + f"\n{NOTE}",
        *("old 1\n\n", "old 1\n\nlog\n1\n\n", f"old 1\n\n{NOTE[:-1]}", f"old 1\r\n\r\n{NOTE}"),
        f"old 1\n\n{NOTE}" + "x" * MAX_REQUEST_BYTES,
    ],
)
def test_what_is_no_request_is_refused(body: str) -> None:
    """With a RequestError (400), and nothing else."""
    with pytest.raises(RequestError):
        AddCheckpoint.parse(body.encode())


@given(st.binary(max_size=300) | st.text().map(str.encode))
@example(b"old 0\n\n\xff")
def test_rubbish_raises_nothing_else(body: bytes) -> None:
    """Bytes from anybody."""
    try:
        parsed = AddCheckpoint.parse(body)
    except RequestError:
        return
    assert parsed.encode() == body


def test_each_answer_of_the_specification() -> None:
    """Each status, by the rule that it stands for."""
    held = head(HONEST[:5])
    assert status(held, request(HONEST[:9], 5)) == (200, None)
    assert status(held, request(HONEST[:5], 5)) == (200, None)
    assert status(CosignedHead(), request(HONEST[:9], 0)) == (200, None)
    assert status(held, request(HONEST[:9], 10)) == (400, None)
    assert status(held, request(HONEST[:9], 4)) == (409, None)
    assert status(held, request(HONEST[:4], 4)) == (409, Misbehaviour.BEHIND)
    assert status(held, request(fork(2)[:5], 5)) == (409, Misbehaviour.CONTRADICTION)
    assert status(held, request(fork(2)[:9], 5)) == (422, Misbehaviour.INCONSISTENT)
    assert status(held, request(HONEST[:9], 5, OTHER)) == (403, None)
    assert decide({}, held, request(HONEST[:9], 5)).status == 404


def test_a_conflict_answers_the_size_that_is_held() -> None:
    """With which the log makes the right proof."""
    held = head(HONEST[:5])
    assert decide(LOGS, held, request(HONEST[:9], 0)) == CosignDecision(
        409, "another size was cosigned last", held
    )


def test_a_proof_from_nothing_is_empty() -> None:
    """The specification asks for it; so do a size that stays, and a tree that grows, for theirs."""
    held = head(HONEST[:5])
    junk = (bytes(32),)
    assert status(CosignedHead(), replace(request(HONEST[:5], 0), proof=junk))[0] == 422
    assert status(held, replace(request(HONEST[:5], 5), proof=junk))[0] == 422
    assert status(held, replace(request(HONEST[:9], 5), proof=()))[0] == 422


def test_an_empty_tree_has_one_root_only() -> None:
    """A checkpoint of size 0 with any other is not cosigned."""
    odd = SignedCheckpoint.sign(Checkpoint(LOG.name, 0, bytes(32)), LOG)
    assert status(CosignedHead(), AddCheckpoint(0, (), odd)) == (409, Misbehaviour.CONTRADICTION)
    assert status(CosignedHead(), request((), 0)) == (200, None)


def test_signatures_of_unknown_keys_are_ignored() -> None:
    """Beside the log's own; a wrong one under the log's own key is not."""
    asked = request(HONEST[:9], 5)
    text = asked.signed.note.text
    own = asked.signed.note.signatures

    def signed_by(*lines: object) -> AddCheckpoint:
        note = Note(text, lines)  # type: ignore[arg-type]
        return replace(asked, signed=replace(asked.signed, note=note))

    held = head(HONEST[:5])
    foreign = SigningKey(LOG.name, bytes(32)).sign(text)
    cosigned = SigningKey("w", bytes(32), COSIGNATURE).cosign(text, 1)
    assert status(held, signed_by(cosigned, foreign, *own))[0] == 200
    assert status(held, signed_by(foreign))[0] == 403
    assert status(held, signed_by(replace(own[0], signature=bytes(64))))[0] == 403


trees = st.integers(0, SIZES).flatmap(
    lambda size: st.sampled_from([HONEST[:size], fork(3)[:size], fork(7)[:size]])
)
asked_for = st.builds(request, trees, st.integers(0, SIZES))


@given(st.lists(asked_for | trees.map(lambda tree: (tree,)), max_size=40))
def test_no_two_histories_are_ever_cosigned(asked: list[AddCheckpoint | tuple[object]]) -> None:
    """Whatever is asked for, in whatever order: one history, which never gets shorter.

    A tree alone stands for a client that first asks for the size (409) and then does it right.
    """
    held, cosigned = CosignedHead(), list[CosignedHead]()
    for one in asked:
        wanted = request(one[0], held.size) if isinstance(one, tuple) else one  # type: ignore[arg-type]
        found = decide(LOGS, held, wanted)
        if found.status == 200:
            assert found.head is not None
            assert found.head.size >= held.size
            held = found.head
            cosigned.append(held)
    histories = (HONEST, fork(3), fork(7))
    assert any(all(head(tree[: one.size]) == one for one in cosigned) for tree in histories)

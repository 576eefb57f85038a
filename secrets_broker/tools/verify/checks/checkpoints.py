"""Checkpoints: each one's signature, and whether all of them are heads of one and the same tree.

A checkpoint is compared with the root that was computed at exactly its size. Since all roots come
from one list of leaves, checkpoints that match are consistent with each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint
from secrets_broker.ledger.transparency_log.cosignatures import unreadable, with_cosignatures
from secrets_broker.ledger.transparency_log.note import COSIGNATURE, Note, NoteError, VerifierKey
from secrets_broker.tools.verify.checks.findings import Violation
from secrets_broker.tools.verify.checks.subtree import Edge


@dataclass(frozen=True, slots=True)
class KeptCheckpoint:
    """A checkpoint as it is kept: in the ledger's own tables, or elsewhere."""

    origin: str
    size: int
    note: str
    root: bytes | None = None
    """What is stored beside the note; None where only the note is."""
    cosignatures: str = ""
    """Signature lines that are kept apart from the note."""
    source: str | None = None
    """Who kept it, where that was not the ledger itself."""


@dataclass(frozen=True, slots=True)
class JudgedCheckpoint:
    """A checkpoint whose own form and signature were judged."""

    origin: str
    size: int
    root: bytes
    edge: Edge
    """The subtrees of the part of its range that it covers."""
    trusted: bool
    """Whether a given key signed it, or no key was given."""
    signatures: int
    cosignatures: int
    source: str | None
    witnessed: bool = False
    """Whether a given witness cosigned it."""

    @property
    def vouches(self) -> bool:
        """Whether it was kept by somebody who is not the ledger, as it is or as a cosignature.

        All other checkpoints may have been signed again by a thief of the signing key.
        """
        return self.source is not None or self.witnessed


def covered(size: int) -> int:
    """The position that a problem of a checkpoint itself is told at: the last that it covers."""
    return max(size - 1, 0)


def judge(
    kept: KeptCheckpoint, keys: Sequence[VerifierKey], edge: Edge
) -> tuple[JudgedCheckpoint, list[Violation]]:
    """Hold a checkpoint to what stands beside it, and to its signatures."""
    position = covered(kept.size)

    def wrong(check: str, detail: str) -> Violation:
        return Violation(position, check, f"checkpoint of size {kept.size}: {detail}")

    try:
        signed = SignedCheckpoint.parse(kept.note)
    except NoteError as error:
        head = JudgedCheckpoint(kept.origin, kept.size, b"", edge, False, 0, 0, kept.source)
        return head, [wrong("checkpoint", str(error))]
    problems = []
    tree = signed.checkpoint
    beside = (kept.origin, kept.size, tree.root if kept.root is None else kept.root)
    if beside != (tree.origin, tree.size, tree.root):
        problems.append(wrong("checkpoint", "its note says something else than its row"))
    own = [key for key in keys if key.signs_for(tree.origin)]
    signatures, trusted = 0, not keys
    try:
        if keys:
            signatures, trusted = len(signed.verify(own)), True
    except NoteError as error:
        problems.append(wrong("signature", f"{error}{_other_keys(signed.note, own)}"))
    trusted = trusted and not problems
    try:
        whole = with_cosignatures(kept.note, kept.cosignatures).note
        cosigners = whole.verified_by(key for key in keys if key not in own)
    except NoteError as error:
        cosigners = []
        problems.append(wrong("signature", str(error)))
    if bad := unreadable(kept.cosignatures):
        problems.append(wrong("signature", f"{bad} of its cosignatures cannot be read"))
    return (
        JudgedCheckpoint(
            kept.origin,
            kept.size,
            tree.root,
            edge,
            trusted,
            signatures,
            len(cosigners),
            kept.source,
            any(key.kind == COSIGNATURE for key in cosigners),
        ),
        problems,
    )


def beyond(size: int, kept: KeptCheckpoint) -> Violation:
    """What a checkpoint of more events than there are says."""
    whose = f" (kept in {kept.source})" if kept.source else ""
    return Violation(
        size,
        "since" if kept.source else "checkpoint",
        f"the ledger has {size} events, the checkpoint{whose} says {kept.size}: "
        f"{kept.size - size} of the newest are missing",
    )


def _other_keys(note: Note, own: Sequence[VerifierKey]) -> str:
    given = {(key.name, key.key_id) for key in own}
    others = {
        line.key_id.hex() for line in note.signatures if (line.name, line.key_id) not in given
    }
    if not others:
        return ""
    ids = ", ".join(sorted(others)[:4])
    return f" (it has signatures of the key {ids}; an earlier key is given with --verifier-key)"

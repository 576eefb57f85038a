"""Witnesses (C2SP tlog-witness): the add-checkpoint request, and a witness's decision.

    old <size that the witness last cosigned, decimal>
    <base64 of a hash of the consistency proof>, no line or up to 63
    <blank line>
    <the checkpoint, a signed note>

For each origin a witness keeps the largest tree that it cosigned. It cosigns another one only if a
consistency proof shows that it extends that tree. So all who require its cosignature see the same
history. All here is pure; the caller must keep the head and decide in one transaction.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from secrets_broker.ledger.encoding import from_base64
from secrets_broker.ledger.transparency_log.checkpoint import NUMBER, SignedCheckpoint
from secrets_broker.ledger.transparency_log.merkle import EMPTY_ROOT
from secrets_broker.ledger.transparency_log.note import NoteError, VerifierKey
from secrets_broker.ledger.transparency_log.proof import ProofError, verify_extension

PATH: Final = "/add-checkpoint"
SIZE_TYPE: Final = "text/x.tlog.size"
MAX_PROOF: Final = 63
# A checkpoint with 16 signatures of 5 kB (figures of signed-note), a proof, and some room.
MAX_REQUEST_BYTES: Final = 256 * 1024

_HASH_BYTES: Final = 32


class RequestError(ValueError):
    """An add-checkpoint request that cannot be read."""


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """The request: the old size, the proof from there, and the checkpoint."""

    old: int
    proof: tuple[bytes, ...]
    signed: SignedCheckpoint

    def encode(self) -> bytes:
        """The body of the request."""
        lines = [f"old {self.old}", *(b64encode(hash_).decode() for hash_ in self.proof)]
        return ("\n".join(lines) + f"\n\n{self.signed}").encode()

    @classmethod
    def parse(cls, body: bytes) -> "AddCheckpoint":
        """Read the body of a request; raises RequestError."""
        if len(body) > MAX_REQUEST_BYTES:
            raise RequestError("the request is too long")
        try:
            head, blank, note = body.decode().partition("\n\n")
        except UnicodeDecodeError:
            raise RequestError("the request is not UTF-8") from None
        first, *lines = head.split("\n")
        old = parse_size(first.removeprefix("old "))
        if not blank or not first.startswith("old ") or old is None:
            raise RequestError("a request begins with a line 'old' and a size")
        try:
            return cls(old, _parse_proof(lines), SignedCheckpoint.parse(note))
        except NoteError as error:
            raise RequestError(str(error)) from None


def parse_size(text: str) -> int | None:
    """A size in decimal without leading zeroes, or None if it is malformed."""
    return int(text) if NUMBER.fullmatch(text) else None


def _parse_proof(lines: Sequence[str]) -> tuple[bytes, ...]:
    if len(lines) > MAX_PROOF:
        raise RequestError(f"a proof has at most {MAX_PROOF} lines")
    try:
        proof = tuple(map(from_base64, lines))
    except ValueError:
        raise RequestError("a line of the proof is not base64") from None
    if any(len(hash_) != _HASH_BYTES for hash_ in proof):
        raise RequestError("a line of the proof is not a hash")
    return proof


@dataclass(frozen=True, slots=True)
class CosignedHead:
    """The largest tree of a log that a witness cosigned; at first, the empty one."""

    size: int = 0
    root: bytes = EMPTY_ROOT


class Misbehaviour(Enum):
    """What a signed request may prove against its log."""

    CONTRADICTION = "contradiction"
    """Two roots of one size: proof, together with what was cosigned."""
    INCONSISTENT = "inconsistent"
    """The proof fails: the log cannot prove it, or somebody else sent rubbish with it."""
    BEHIND = "behind"
    """Smaller than what was cosigned: the log was set back, or somebody replayed an old one."""


@dataclass(frozen=True, slots=True)
class CosignDecision:
    """A witness's answer; with status 200, it must keep `head` before it cosigns."""

    status: int
    reason: str
    head: CosignedHead | None = None
    """200: the head to keep. 409: the kept head, whose size is answered."""
    finding: Misbehaviour | None = None


def decide(
    logs: Mapping[str, Sequence[VerifierKey]], held: CosignedHead, request: AddCheckpoint
) -> CosignDecision:
    """Judge a request, in the order of the specification.

    `logs` has each origin's keys, `held` is the head kept for the request's origin.
    """
    checkpoint = request.signed.checkpoint
    if checkpoint.origin not in logs:
        return CosignDecision(404, "this witness does not know the log")
    try:
        request.signed.verify(logs[checkpoint.origin])
    except NoteError:
        return CosignDecision(403, "no key of the log signed the checkpoint")
    finding = _finding(held, CosignedHead(checkpoint.size, checkpoint.root))
    if request.old > checkpoint.size:
        return CosignDecision(400, "the old size is larger than the checkpoint's", finding=finding)
    if request.old != held.size:
        return CosignDecision(409, "another size was cosigned last", held, finding)
    if finding is not None:
        return CosignDecision(409, "another root of this size was cosigned", held, finding)
    try:
        verify_extension(held.size, checkpoint.size, held.root, checkpoint.root, request.proof)
    except ProofError as error:
        return CosignDecision(422, str(error), finding=Misbehaviour.INCONSISTENT)
    return CosignDecision(200, "cosigned", CosignedHead(checkpoint.size, checkpoint.root))


def _finding(held: CosignedHead, submitted: CosignedHead) -> Misbehaviour | None:
    if submitted.size < held.size:
        return Misbehaviour.BEHIND
    if submitted.size == held.size and submitted.root != held.root:
        return Misbehaviour.CONTRADICTION
    return None

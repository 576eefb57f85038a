"""Receipts (C2SP tlog-proof): one event's inclusion, checked without the log.

    c2sp.org/tlog-proof@v1
    extra <base64 of the entry>
    index <position>
    <base64 of a hash>                 the inclusion proof, from the leaf's sibling upwards
    …
    <blank line>
    <the signed checkpoint, as it is>

The entry travels as extra data, which is not authenticated by itself. It is authentic if its leaf
hash leads to the root that the log signed.
"""

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from secrets_broker.ledger.encoding import from_base64
from secrets_broker.ledger.transparency_log.checkpoint import NUMBER, SignedCheckpoint
from secrets_broker.ledger.transparency_log.merkle import leaf_hash
from secrets_broker.ledger.transparency_log.note import MAX_BYTES, NoteError, VerifierKey
from secrets_broker.ledger.transparency_log.proof import ProofError, verify_inclusion

_HEADER: Final = "c2sp.org/tlog-proof@v1"
_INDEX: Final = re.compile(f"index ({NUMBER.pattern})")
_EXTRA: Final = "extra "
_MAX_HASHES: Final = 63
_HASH_BYTES: Final = 32


class ReceiptError(ValueError):
    """A receipt that is malformed, or that does not prove what it claims."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proves that an entry is at a position of the tree of a checkpoint."""

    position: int
    proof: tuple[bytes, ...]
    checkpoint: SignedCheckpoint
    entry: bytes | None = None

    def __str__(self) -> str:
        """The receipt's text."""
        extra = [] if self.entry is None else [_EXTRA + b64encode(self.entry).decode()]
        hashes = [b64encode(hash_).decode() for hash_ in self.proof]
        lines = [_HEADER, *extra, f"index {self.position}", *hashes, "", ""]
        return "\n".join(lines) + str(self.checkpoint)

    @classmethod
    def parse(cls, text: str) -> "Receipt":
        """Read one; raises ReceiptError. Nothing is verified yet."""
        head, blank, note = text.partition("\n\n")
        if not blank or len(text) > MAX_BYTES:
            raise ReceiptError("a receipt has a proof, a blank line and a checkpoint")
        header, *lines = head.split("\n")
        if header != _HEADER:
            raise ReceiptError(f"a receipt begins with {_HEADER}")
        entry = None
        if lines and lines[0].startswith(_EXTRA):
            entry = _decode(lines.pop(0).removeprefix(_EXTRA))
        index = _INDEX.fullmatch(lines[0]) if lines else None
        proof = tuple(map(_decode, lines[1:]))
        if not index or len(proof) > _MAX_HASHES or any(len(h) != _HASH_BYTES for h in proof):
            raise ReceiptError("the receipt's index or its proof is malformed")
        try:
            return cls(int(index[1]), proof, SignedCheckpoint.parse(note), entry)
        except NoteError as error:
            raise ReceiptError(str(error)) from None

    def verify(self, keys: Iterable[VerifierKey], leaf: bytes | None = None) -> list[VerifierKey]:
        """Check the signature and the proof; returns the log's keys that signed.

        The leaf hash is by default that of the receipt's own entry. Raises ReceiptError.
        """
        if leaf is None and self.entry is None:
            raise ReceiptError("the receipt has no entry: give the entry's leaf hash")
        if self.entry is not None and leaf not in (None, leaf_hash(self.entry)):
            raise ReceiptError("the receipt's entry has another leaf hash")
        tree = self.checkpoint.checkpoint
        try:
            signers = self.checkpoint.verify(keys)
            hash_ = leaf or leaf_hash(self.entry or b"")
            verify_inclusion(self.position, tree.size, hash_, self.proof, tree.root)
        except (NoteError, ProofError) as error:
            raise ReceiptError(str(error)) from None
        return signers


def _decode(text: str) -> bytes:
    try:
        return from_base64(text)
    except ValueError:
        raise ReceiptError("the receipt has a line that is not base64") from None

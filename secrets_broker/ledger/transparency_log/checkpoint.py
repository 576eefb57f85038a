"""Checkpoints (C2SP tlog-checkpoint): the signed head of the tree at one size.

    <origin>
    <size, decimal>
    <base64 of the root hash>

is the text of a signed note. The origin is the name of the key that signs it.
"""

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from secrets_broker.ledger.encoding import from_base64
from secrets_broker.ledger.transparency_log.note import Note, NoteError, SigningKey, VerifierKey

NUMBER: Final = re.compile("0|[1-9][0-9]{0,17}")
"""A position or a size in its one decimal form (C2SP tlog-checkpoint)."""
_ROOT_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log commits to: that its first `size` entries have this root hash."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The note's text."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    @classmethod
    def parse_text(cls, text: str) -> "Checkpoint":
        """Read a note's text; extension lines are left out. Raises NoteError."""
        lines = text.split("\n")
        if len(lines) < 4 or not all(lines[:-1]) or lines[-1]:
            raise NoteError("a checkpoint has an origin, a size and a root hash, each on a line")
        origin, size, encoded = lines[:3]
        try:
            root = from_base64(encoded)
        except ValueError:
            root = b""
        if not NUMBER.fullmatch(size) or len(root) != _ROOT_BYTES:
            raise NoteError("the checkpoint's size or root hash is malformed")
        return cls(origin, int(size), root)


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint and the note that it came in."""

    checkpoint: Checkpoint
    note: Note

    @classmethod
    def parse(cls, note: str) -> "SignedCheckpoint":
        """Take a note apart, without verifying it; raises NoteError."""
        opened = Note.parse(note)
        return cls(Checkpoint.parse_text(opened.text), opened)

    @classmethod
    def sign(cls, checkpoint: Checkpoint, key: SigningKey) -> "SignedCheckpoint":
        """Sign a checkpoint; it must be committed, and extend what was signed before."""
        return cls(checkpoint, Note(checkpoint.text, (key.sign(checkpoint.text),)))

    def __str__(self) -> str:
        """The whole note."""
        return str(self.note)

    def verify(self, keys: Iterable[VerifierKey]) -> list[VerifierKey]:
        """The log's keys that signed it, at least one; raises NoteError.

        A log signs under its own name. So a key of another name does not count, nor does a
        witness's key of the same name.
        """
        origin = self.checkpoint.origin
        signers = self.note.verified_by(key for key in keys if key.signs_for(origin))
        if not signers:
            raise NoteError(f"no key that was given signed this checkpoint of {origin}")
        return signers


def open_checkpoint(note: str, keys: Iterable[VerifierKey]) -> SignedCheckpoint:
    """Read and verify a signed checkpoint; raises NoteError."""
    signed = SignedCheckpoint.parse(note)
    signed.verify(keys)
    return signed

"""Signed notes (C2SP signed-note): a text, a blank line, and signature lines.

    <text, which ends in a newline>
    <blank line>
    — <key name> base64(key id[4] || signature)

The key id is SHA-256(name || 0x0A || type || public key)[:4]. Keys travel in the form of Go's
note package: `PRIVATE+KEY+<name>+<id>+base64(type || seed)` to sign, and
`<name>+<id>+base64(type || public key)` to verify.

Ed25519 (RFC 8032), signature type 0x01: what every verifier of transparency logs reads.
Type 0x04 is a witness's cosignature/v1 (C2SP tlog-cosignature): it signs a time with the text.
"""

import unicodedata
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secrets_broker.ledger.encoding import from_base64
from secrets_broker.ledger.errors import LedgerError

ED25519: Final = 0x01
COSIGNATURE: Final = 0x04

MAX_SIGNATURES: Final = 64  # a verifier must take 16 at least
MAX_BYTES: Final = 1 << 20
_EM_DASH: Final = "— "
_PRIVATE: Final = "PRIVATE+KEY+"
_KEY_BYTES: Final = 32
_MAX_TIMESTAMP: Final = 2**63 - 1


class NoteError(LedgerError, ValueError):
    """A malformed key or note, or a wrong signature; the text never shows a key."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: the claimed signer's name, its key id, and the signature."""

    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        """The line, its newline included."""
        return f"{_EM_DASH}{self.name} {b64encode(self.key_id + self.signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and the signatures that came with it; nothing is verified yet."""

    text: str
    signatures: tuple[Signature, ...] = ()

    @classmethod
    def parse(cls, note: str) -> "Note":
        """Take a note apart; raises NoteError."""
        if len(note) > MAX_BYTES or any(ord(c) < 0x20 and c != "\n" for c in note):
            raise NoteError("the note is too long or has control characters")
        text, blank, rest = note.rpartition("\n\n")
        if not blank or not rest.endswith("\n"):
            raise NoteError("the note has no signatures after a blank line")
        return cls(text + "\n", parse_signatures(rest))

    def __str__(self) -> str:
        """The whole note."""
        return self.text + "\n" + "".join(map(str, self.signatures))

    def verified_by(self, keys: Iterable["VerifierKey"]) -> list["VerifierKey"]:
        """The keys that signed this text.

        Signatures of other keys are ignored. Raises NoteError if a signature of one of these keys
        is wrong, as the specification advises.
        """
        known = {(key.name, key.key_id): key for key in keys}
        found = []
        for line in self.signatures:
            key = known.get((line.name, line.key_id))
            if key is None or key in found:
                continue
            if not key.verifies(self.text, line.signature):
                raise NoteError(f"the signature of {key.name} is not of this text")
            found.append(key)
        return found


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name."""

    name: str
    kind: int
    public: bytes

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """Read `<name>+<id>+<base64>`; raises NoteError."""
        try:
            name, key_id, encoded = text.strip().split("+", 2)
            kind, *public = from_base64(encoded)
        except ValueError:
            raise NoteError("a verifier key looks like <name>+<id>+<base64>") from None
        key = cls(name, kind, bytes(public))
        if not is_name(name) or kind not in (ED25519, COSIGNATURE) or len(public) != _KEY_BYTES:
            raise NoteError("the verifier key is not an Ed25519 key with a name")
        if key.key_id.hex() != key_id:
            raise NoteError(f"the verifier key of {name} has another id: it was mistyped")
        return key

    @property
    def key_id(self) -> bytes:
        """The four bytes that identify the key in a signature line."""
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    def __str__(self) -> str:
        """The key as `parse` reads it."""
        encoded = b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    def signs_for(self, origin: str) -> bool:
        """Tell whether it can be the key of the log of that name; a witness's cannot."""
        return self.name == origin and self.kind == ED25519

    def verifies(self, text: str, signature: bytes) -> bool:
        """Tell whether this key made that signature of the text."""
        message = text.encode()
        if self.kind == COSIGNATURE:
            moment = int.from_bytes(signature[:8], "big")
            message, signature = cosigned_message(moment, text), signature[8:]
            if moment > _MAX_TIMESTAMP:
                return False
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key with its name."""

    name: str
    seed: bytes = field(repr=False)
    kind: int = ED25519

    @classmethod
    def parse(cls, text: str) -> "SigningKey":
        """Read `PRIVATE+KEY+<name>+<id>+<base64>`; raises NoteError, which never shows it."""
        try:
            name, key_id, encoded = text.strip().removeprefix(_PRIVATE).split("+", 2)
            kind, *seed = from_base64(encoded)
        except ValueError:
            name = key_id = ""
            kind, seed = 0, []
        known = kind in (ED25519, COSIGNATURE) and len(seed) == _KEY_BYTES and is_name(name)
        if not text.strip().startswith(_PRIVATE) or not known:
            raise NoteError("a signing key looks like PRIVATE+KEY+<name>+<id>+<base64>")
        key = cls(name, bytes(seed), kind)
        if key.verifier.key_id.hex() != key_id:
            raise NoteError(f"the signing key of {name} has another id: it was mistyped")
        return key

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        private = Ed25519PrivateKey.from_private_bytes(self.seed)
        return VerifierKey(self.name, self.kind, private.public_key().public_bytes_raw())

    def private_text(self) -> str:
        """The key as `parse` reads it: a secret, so it is no __str__."""
        encoded = b64encode(bytes([self.kind]) + self.seed).decode()
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id.hex()}+{encoded}"

    def sign(self, text: str) -> Signature:
        """Sign a note's text, which ends in a newline."""
        return Signature(self.name, self.verifier.key_id, self._sign(text.encode()))

    def cosign(self, text: str, moment: int) -> Signature:
        """Sign a checkpoint's text as a witness, at a time in seconds since 1970."""
        signature = self._sign(cosigned_message(moment, text))
        return Signature(self.name, self.verifier.key_id, moment.to_bytes(8, "big") + signature)

    def _sign(self, message: bytes) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)


def cosigned_message(moment: int, text: str) -> bytes:
    """What a cosignature/v1 signs: two lines that no checkpoint begins with, then the text."""
    return f"cosignature/v1\ntime {moment}\n{text}".encode()


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """Read signature lines, each with its newline; raises NoteError."""
    found = lines.split("\n")
    if found.pop() or not 1 <= len(found) <= MAX_SIGNATURES:
        raise NoteError("the note has no signature, or too many")
    return tuple(map(_parse_line, found))


def _parse_line(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_EM_DASH).partition(" ")
    try:
        raw = from_base64(encoded)
    except ValueError:
        raw = b""
    if not line.startswith(_EM_DASH) or not is_name(name) or len(raw) <= 4:
        raise NoteError("a signature line is malformed")
    return Signature(name, raw[:4], raw[4:])


def is_name(name: str) -> bool:
    """Tell whether a key may have this name: not empty, no white space, no plus."""
    return bool(name) and not any(
        c == "+" or c.isspace() or unicodedata.category(c) in ("Cc", "Cs") for c in name
    )

"""Cursors: an opaque text that says where a page ended and the next one begins.

The text is base64url of a checksum and of the cursor's fields. The checksum covers the question's
name too, so a cursor of another question, or one that lost a character, is refused. It is no
signature: a cursor gives access to nothing that the question itself does not.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Annotated, ClassVar, Final, Self

import msgspec
from msgspec import Meta

from secrets_broker.ledger.errors import FieldError, InvalidCommandError

_CHECK_BYTES: Final = 6

Position = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Version = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A cursor; subclasses add the fields and name their question."""

    question: ClassVar[str]

    def encode(self) -> str:
        """An opaque text that fits into a URL."""
        fields = msgspec.json.encode(self)
        return urlsafe_b64encode(self._check(fields) + fields).rstrip(b"=").decode("ascii")

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read such a text; raises InvalidCommandError."""
        try:
            joined = urlsafe_b64decode(text + "=" * (-len(text) % 4))
            cursor = msgspec.json.decode(joined[_CHECK_BYTES:], type=cls)
            # Compared as a whole: base64 has more than one form for the same bytes.
            if cursor.encode() != text:
                raise refused()
        except (ValueError, OverflowError, msgspec.MsgspecError):
            raise refused() from None
        return cursor

    @classmethod
    def _check(cls, fields: bytes) -> bytes:
        return sha256(cls.question.encode() + b"\0" + fields).digest()[:_CHECK_BYTES]


def refused() -> InvalidCommandError:
    """The error for a text that is no cursor of this question."""
    return InvalidCommandError(FieldError("cursor", "must be that of a page"))

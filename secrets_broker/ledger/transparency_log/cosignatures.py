"""Cosignatures that came after a checkpoint was kept: anybody with a login may add lines. Pure."""

from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint
from secrets_broker.ledger.transparency_log.note import (
    MAX_SIGNATURES,
    Note,
    NoteError,
    Signature,
    parse_signatures,
)


def with_cosignatures(note: str, lines: str) -> SignedCheckpoint:
    """A kept checkpoint with the signature lines that came later; raises NoteError.

    A line that is none is left out, one in the log's own name, and what a note cannot hold: whoever
    has the service's login can add such rows, and must not take the checkpoint away with them.
    """
    signed = SignedCheckpoint.parse(note)
    own = signed.note.signatures
    others = [line for line in readable(lines) if line.name != signed.checkpoint.origin]
    more = others[: MAX_SIGNATURES - len(own)]
    return SignedCheckpoint(signed.checkpoint, Note(signed.note.text, (*own, *more)))


def readable(lines: str) -> tuple[Signature, ...]:
    """The signature lines among these; empty ones do not count."""
    return tuple(found for line in lines.split("\n") if line for found in _signature(line))


def unreadable(lines: str) -> int:
    """How many of them are no signature lines."""
    return sum(not _signature(line) for line in lines.split("\n") if line)


def _signature(line: str) -> tuple[Signature, ...]:
    try:
        return parse_signatures(line + "\n")
    except NoteError:
        return ()

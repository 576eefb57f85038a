"""Adds later cosignatures to a kept checkpoint, and drops malformed lines. Pure."""

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

    Left out are malformed lines, lines in the log's own name, and those beyond a note's limit.
    Anybody with the service's login can add such rows, and must not make the checkpoint unreadable
    by them.
    """
    signed = SignedCheckpoint.parse(note)
    own = signed.note.signatures
    others = [line for line in readable(lines) if line.name != signed.checkpoint.origin]
    more = others[: MAX_SIGNATURES - len(own)]
    return SignedCheckpoint(signed.checkpoint, Note(signed.note.text, (*own, *more)))


def readable(lines: str) -> tuple[Signature, ...]:
    """The well-formed signature lines; empty lines are ignored."""
    return tuple(found for line in lines.split("\n") if line for found in _signature(line))


def unreadable(lines: str) -> int:
    """How many lines are malformed."""
    return sum(not _signature(line) for line in lines.split("\n") if line)


def _signature(line: str) -> tuple[Signature, ...]:
    try:
        return parse_signatures(line + "\n")
    except NoteError:
        return ()

"""What a user gives verify: verifier keys, and checkpoints that were kept elsewhere."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint, open_checkpoint
from secrets_broker.ledger.transparency_log.note import MAX_BYTES, NoteError, VerifierKey
from secrets_broker.settings import Settings
from secrets_broker.tools.verify.checks.checkpoints import KeptCheckpoint
from secrets_broker.wiring import verifier_keys, witnesses


def known_keys(given: Sequence[str], settings: Settings) -> tuple[VerifierKey, ...]:
    """The keys of --verifier-key, and those of the settings, its witnesses' among them."""
    cosigners = [witness.key for witness in witnesses(settings)]
    return tuple(dict.fromkeys([*_keys(given), *verifier_keys(settings), *cosigners]))


def _keys(given: Sequence[str]) -> Iterator[VerifierKey]:
    for text in given:
        lines = read(text[1:]).split() if text.startswith("@") else [text]
        try:
            yield from map(VerifierKey.parse, lines)
        except NoteError as error:
            raise click.BadParameter(str(error), param_hint="--verifier-key") from None


def kept_checkpoint(path: str, keys: Sequence[VerifierKey], option: str) -> KeptCheckpoint:
    """A checkpoint from a file, or from standard input (`-`); it must be signed by a given key."""
    note = read(path)
    try:
        if not keys:
            raise NoteError("it can only be trusted with a --verifier-key (or LEDGER_VERIFIER_KEY)")
        signed: SignedCheckpoint = open_checkpoint(note, keys)
    except NoteError as error:
        raise click.UsageError(f"{option}: {path} is no checkpoint to go by: {error}") from None
    tree = signed.checkpoint
    return KeptCheckpoint(tree.origin, tree.size, note, tree.root, source=path)


def read(path: str) -> str:
    """A small text file, or standard input (`-`)."""
    try:
        if path == "-":
            return sys.stdin.buffer.read(MAX_BYTES + 1).decode()
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1).decode()
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is not UTF-8 text") from None

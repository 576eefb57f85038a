"""Gets a checkpoint cosigned: the witness's proof, its answer, and what is kept of it."""

from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.publishing.witness_client import Witness, submit
from secrets_broker.ledger.transparency_log.add_checkpoint import (
    SIZE_TYPE,
    AddCheckpoint,
    parse_size,
)
from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint_store import (
    Published,
    keep_cosignature,
    read_published,
)
from secrets_broker.ledger.transparency_log.cosignatures import readable
from secrets_broker.ledger.transparency_log.note import NoteError, Signature, parse_signatures
from secrets_broker.ledger.transparency_log.proof import ProofError, plan_consistency
from secrets_broker.ledger.transparency_log.stored_hashes import prove
from secrets_broker.outbound.client import HttpAnswer, UnreachableError

# A witness with another size says which. It does so repeatedly only if others submit meanwhile.
_TRIES: Final = 4
# Anybody with the service's login can add rows, so a row counts only if its line verifies. If the
# newest ones are all forged, the witness itself says what it cosigned last.
_LAST: Final = """
    SELECT size, left(line, 4096), note FROM ledger.cosignatures
    JOIN ledger.checkpoints USING (origin, size)
    WHERE name = %s AND key_id = %s AND origin = %s AND size <= %s
    ORDER BY size DESC LIMIT 16
"""
_STATUSES: Final = {
    400: "it refuses the request as malformed",
    403: "it does not accept the log's signature: give it the log's present verifier key",
    404: "it does not know the log: give it the log's verifier key, and check the URL",
    413: "it takes no request of this size",
    429: "it limits the rate of requests",
}


class WitnessError(LedgerError):
    """A witness gave no cosignature; the text names it and says why."""


class WitnessUnreachableError(WitnessError):
    """A witness did not answer."""


class WitnessDisagreesError(WitnessError):
    """A witness cosigned a tree that this ledger does not extend: it was set back or rewritten."""


@dataclass(frozen=True, slots=True)
class Held:
    """A 409: the size that the witness cosigned last, or None if it names none."""

    size: int | None


async def published_checkpoint(connection: AsyncConnection[Any]) -> SignedCheckpoint | None:
    """The checkpoint to submit, or None."""
    return submittable(await read_published(connection))


def submittable(published: Published) -> SignedCheckpoint | None:
    """The checkpoint to submit; None before the first one, and on a standby, which may lag."""
    return None if published.in_recovery else published.checkpoint


async def last_cosigned(
    connection: AsyncConnection[Any], witness: Witness, signed: SignedCheckpoint
) -> int | None:
    """The size that this witness cosigned last, as far as is kept; None for none."""
    place = (signed.checkpoint.origin, signed.checkpoint.size)
    names = (witness.key.name, witness.key.key_id)
    cursor = await connection.execute(_LAST, (*names, *place))
    rows = await cursor.fetchall()
    return next((size for size, line, note in rows if _is_cosigned(witness, line, note)), None)


def _is_cosigned(witness: Witness, line: str, note: str) -> bool:
    """Whether a kept line is the witness's cosignature of a kept checkpoint."""
    try:
        text = SignedCheckpoint.parse(note).note.text
    except NoteError:
        return False
    return any(witness.key.verifies(text, found.signature) for found in readable(line))


async def cosign(
    connection: AsyncConnection[Any], witness: Witness, signed: SignedCheckpoint
) -> None:
    """Have a witness cosign a published checkpoint, and keep what it signs.

    Raises WitnessError; that is WitnessDisagreesError if the witness cosigned another history.
    """
    old = await last_cosigned(connection, witness, signed) or 0
    for _ in range(_TRIES):
        answer = await _submit(connection, witness, signed, old)
        if isinstance(answer, Held):
            old = _next(witness, signed, old, answer)
            continue
        # Died before this commits: the witness moved on, and says so (409) to the next request,
        # which gets its cosignature again. Died after: it is kept, and published with the note.
        await _keep(connection, witness, signed, answer)
        return
    raise WitnessError(f"{witness.key.name}: it named another size {_TRIES} times; try again")


async def _keep(
    connection: AsyncConnection[Any], witness: Witness, signed: SignedCheckpoint, line: Signature
) -> None:
    size = signed.checkpoint.size
    if await keep_cosignature(connection, signed.checkpoint, line):
        return
    if await last_cosigned(connection, witness, signed) != size:  # else another process has kept it
        raise WitnessError(
            f"{witness.key.name}: its cosignature of size {size} cannot be kept: a row that it did "
            "not sign has its place in ledger.cosignatures"
        )


async def _submit(
    connection: AsyncConnection[Any], witness: Witness, signed: SignedCheckpoint, old: int
) -> Signature | Held:
    try:
        proof = await prove(connection, plan_consistency(old, signed.checkpoint.size))
    except ProofError as error:
        raise WitnessDisagreesError(
            f"no proof can be made for {witness.key.name}: {error}"
        ) from None
    request = AddCheckpoint(old, tuple(proof), signed).encode()
    try:
        answer = await submit(witness, request)
    except UnreachableError as error:
        raise WitnessUnreachableError(f"{witness.key.name} at {witness.url}: {error}") from None
    return read_answer(witness, signed, answer)


def read_answer(witness: Witness, signed: SignedCheckpoint, answer: HttpAnswer) -> Signature | Held:
    """The witness's cosignature, or the size that it holds; raises WitnessError."""
    name = witness.key.name
    match answer.status:
        case 200:
            return _own_signature(witness, signed, answer.body)
        case 409:
            text = answer.body.decode("ascii", "replace")
            known = answer.media_type == SIZE_TYPE and text.endswith("\n")
            return Held(parse_size(text[:-1]) if known else None)
        case 422:
            raise WitnessDisagreesError(
                f"{name} refuses the consistency proof: the tree of {signed.checkpoint.size} does "
                "not extend the one that it cosigned. The ledger was rewritten, or restored and "
                "then written to; see: When a witness disagrees, in docs/operations.md"
            )
    why = _STATUSES.get(answer.status, "it is not an answer of tlog-witness; check the URL")
    raise WitnessError(f"{name} at {witness.url}: HTTP {answer.status}: {why}")


def _own_signature(witness: Witness, signed: SignedCheckpoint, body: bytes) -> Signature:
    """The signature by the witness's configured key; all others are ignored."""
    key = witness.key
    try:
        lines = parse_signatures(body.decode())
    except (UnicodeDecodeError, NoteError):
        raise WitnessError(f"{key.name} at {witness.url}: it answers no signature lines") from None
    for line in lines:
        ours = (line.name, line.key_id) == (key.name, key.key_id)
        if ours and key.verifies(signed.note.text, line.signature):
            return line
    raise WitnessError(
        f"{key.name} at {witness.url}: no cosignature that verifies with its key; check the key"
    )


def _next(witness: Witness, signed: SignedCheckpoint, old: int, held: Held) -> int:
    """The size to prove from next; raises WitnessError."""
    name, size = witness.key.name, signed.checkpoint.size
    if held.size is not None and held.size > size:
        raise WitnessDisagreesError(
            f"{name} cosigned a tree of {held.size}, and the published one has {size}: this "
            "ledger is behind what was published before. It was restored, or failed over to an "
            "older state; see: When a witness disagrees, in docs/operations.md"
        )
    if old == size and held.size in (None, size):
        raise WitnessDisagreesError(
            f"{name} cosigned another root for the size {size}: this ledger was rewritten; "
            "see: When a witness disagrees, in docs/operations.md"
        )
    if held.size in (None, old):
        raise WitnessError(f"{name} at {witness.url}: HTTP 409, without another size")
    return held.size

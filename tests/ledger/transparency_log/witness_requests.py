"""Requests to a witness (C2SP tlog-witness): of an honest log, and of one that forks."""

from collections.abc import Sequence

from secrets_broker.ledger.transparency_log.add_checkpoint import (
    AddCheckpoint,
    CosignedHead,
)
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.merkle import Frontier, leaf_hash
from secrets_broker.ledger.transparency_log.note import SigningKey
from secrets_broker.ledger.transparency_log.proof import Run, compute, plan_consistency, runs
from tests.ledger.checkpoints import KEY as LOG

LOGS = {LOG.name: [LOG.verifier]}
SIZES = 12
HONEST = tuple(leaf_hash(b"%d" % n) for n in range(SIZES))


def fork(at: int) -> tuple[bytes, ...]:
    """A tree that is another one from that leaf on."""
    return HONEST[:at] + tuple(leaf_hash(b"fork %d" % n) for n in range(at, SIZES))


def head(leaves: Sequence[bytes]) -> CosignedHead:
    """The head of a tree of these leaves."""
    return CosignedHead(len(leaves), Frontier().extend(leaves)[0].root())


def proof(leaves: Sequence[bytes], old: int) -> tuple[bytes, ...]:
    """From the first `old` leaves to all; none where there cannot be one."""
    if old > len(leaves):
        return ()
    plan = plan_consistency(old, len(leaves))
    return tuple(compute(plan, {run: _hashes(leaves, run) for run in runs(plan)}))


def _hashes(leaves: Sequence[bytes], run: Run) -> Sequence[bytes]:
    assert run.level == 0  # a small tree has no other
    return leaves[run.first : run.first + run.count]


def request(leaves: Sequence[bytes], old: int, key: SigningKey = LOG) -> AddCheckpoint:
    """A request for the tree of these leaves, as its log would make it."""
    new = head(leaves)
    signed = SignedCheckpoint.sign(Checkpoint(LOG.name, new.size, new.root), key)
    return AddCheckpoint(old, proof(leaves, old), signed)

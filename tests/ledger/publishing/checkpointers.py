"""Checkpoints made once, after a restart, and of a ledger that was tampered with."""

from pathlib import Path

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.publishing.checkpointer import make_checkpoint
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.rollback_detection.continuity import Continuity
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.note import SigningKey
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from tests.conftest import Database
from tests.ledger.guards import back_in_force
from tests.ledger.helpers import (
    lookup,
    run,
    send,
)

KEY = SigningKey("log.example", bytes(range(32)))
OTHER = SigningKey("log.example/again", bytes(32))


async def _make(url: str, key: SigningKey = KEY) -> SignedCheckpoint | None:
    async with await connect(url) as connection:
        return await make_checkpoint(connection, key)


def make(database: Database, key: SigningKey = KEY) -> Checkpoint:
    """One checkpoint of what is there."""
    made = run(_make(database.service_url, key))
    assert made is not None
    made.verify([key.verifier])
    return made.checkpoint


def tamper(database: Database, *statements: str) -> None:
    """Change what is append-only, as only an owner can."""
    tables = ("events", "checkpoints", "published", "nodes")
    off = [f"ALTER TABLE ledger.{table} DISABLE TRIGGER ALL" for table in tables]
    database.execute(";".join([*off, *statements]))
    back_in_force(database)


def continuing(database: Database, keyring: Keyring, path: Path) -> None:
    """Append one event, as a service with that file would."""

    async def once() -> None:
        known = Continuity((KEY.verifier, OTHER.verifier), CheckpointFile(path))
        writer = Writer(database.service_url, keyring, HostCredentials(), continuity=known)
        try:
            await writer.start()
            await send(writer, lookup("a"))
        finally:
            await writer.close()

    run(once())

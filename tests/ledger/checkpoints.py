"""Checkpoints for tests: signed and published as the service does it."""

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint_store import publish, read_published
from secrets_broker.ledger.transparency_log.note import SigningKey
from secrets_broker.ledger.transparency_log.stored_hashes import root_at
from tests.conftest import Database
from tests.ledger.helpers import run

KEY = SigningKey("log.example", bytes(range(32)))


def publish_checkpoint(
    database: Database, size: int | None = None, key: SigningKey = KEY
) -> SignedCheckpoint:
    """Sign and publish a checkpoint of that size, or of all that is there."""

    async def signed() -> SignedCheckpoint:
        async with await connect(database.service_url) as connection:
            before = await read_published(connection)
            wanted = before.size if size is None else size
            root = await root_at(connection, wanted)
            made = SignedCheckpoint.sign(Checkpoint(key.name, wanted, root), key)
            assert await publish(connection, made, before.place)
            return made

    return run(signed())

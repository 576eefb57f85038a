"""Published checkpoints for tests: signed with a key of the tests, of what is in the database."""

from secrets_broker.ledger.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.connection import connect
from secrets_broker.ledger.hashes import root_at
from secrets_broker.ledger.note import SigningKey
from secrets_broker.ledger.published import publish, read_published
from tests.conftest import Database
from tests.ledger.helpers import run

LOG = SigningKey("log.example/ledger", bytes(range(32)))


def publish_checkpoint(database: Database, size: int | None = None) -> SignedCheckpoint:
    """Sign the tree of that size, or of all events, and publish it."""
    return run(_publish(database.service_url, size))


async def _publish(url: str, size: int | None) -> SignedCheckpoint:
    async with await connect(url) as connection:
        before = await read_published(connection)
        wanted = before.size if size is None else size
        root = await root_at(connection, wanted)
        signed = SignedCheckpoint.sign(Checkpoint(LOG.name, wanted, root), LOG)
        assert await publish(connection, signed, before.place)
    return signed

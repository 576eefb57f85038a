"""The bench measures what it says: a true ledger, and a reference that does the work."""

import asyncio
from typing import Any

import falcon.testing
import psycopg

from bench import dataset, load, reference
from bench.stack import KMS_KEY
from secrets_broker.ledger.commands import Lookup
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Outcome
from secrets_broker.ledger.transparency_log.merkle import Frontier
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from tests.conftest import Database

CREDENTIALS = 20
EVENTS = 700  # completes two nodes
KEY = "an-internal-key"


def test_the_data_set_has_every_node_that_its_leaves_complete(database: Database) -> None:
    """The bulk path stores the tree that the writer would have stored."""
    dataset.prepare(database.service_url, database.owner_url, CREDENTIALS, EVENTS)
    leaves = database.fetch("SELECT leaf_hash FROM ledger.events ORDER BY position")
    stored = database.fetch("SELECT level, index, hash FROM ledger.nodes ORDER BY level, index")
    _, nodes = Frontier().extend(leaf for (leaf,) in leaves)
    assert len(leaves) == EVENTS
    assert stored == [(node.level, node.index, node.hash) for node in nodes]


def test_the_data_set_is_a_ledger_that_the_service_goes_on_with(database: Database) -> None:
    """A lookup in it discloses what was stored, at the next position."""
    dataset.prepare(database.service_url, database.owner_url, CREDENTIALS, EVENTS)
    outcome = asyncio.run(_look_up(database.service_url, load.host(CREDENTIALS - 1)))
    assert outcome.content is not None
    assert (outcome.position, outcome.content.password) == (EVENTS, load.PASSWORD)


async def _look_up(database_url: str, host: str) -> Outcome:
    writer = Writer(database_url, Keyring.from_kms_keys(KMS_KEY), HostCredentials())
    await writer.start()
    try:
        command = Lookup(host=host, purpose=load.PURPOSE)
        return await writer.submit(command, Context(actor=None, authn="internal_key"))
    finally:
        await writer.close()


def test_the_reference_stores_discloses_and_records(empty_database: str) -> None:
    """An answer of the reference stands for the same work as one of ours."""
    with psycopg.connect(empty_database) as connection:
        connection.execute(reference.SCHEMA)
    client = falcon.testing.TestClient(reference.create_app(empty_database, KEY, KMS_KEY))
    name = {"host": load.host(1), "purpose": load.PURPOSE}
    stored = _post(client, "upsert", {**name, **load.content()}, KEY)
    found = _post(client, "lookup", name, KEY)
    refused = _post(client, "lookup", name, "another")
    assert (stored.status_code, refused.status_code) == (200, 403)
    assert found.json == {**name, **load.content(), "additional_data": {}}
    assert _log(empty_database) == [("create", True), ("read", True)]
    assert load.PASSWORD not in _stored_password(empty_database)


def _post(client: falcon.testing.TestClient, operation: str, body: Any, key: str) -> Any:
    path = f"/internal/secrets/credential-{operation}"
    return client.simulate_post(path, json=body, headers={"X-Internal-Key": key})


def _log(database_url: str) -> list[tuple[Any, ...]]:
    query = "SELECT access_type, success FROM reference.credential_access_log ORDER BY id"
    with psycopg.connect(database_url) as connection:
        return connection.execute(query).fetchall()


def _stored_password(database_url: str) -> str:
    query = "SELECT password_encrypted FROM reference.host_credentials"
    with psycopg.connect(database_url) as connection:
        (password,) = connection.execute(query).fetchall()[0]
    return str(password)

"""A ledger from before there were MACs, made of a present one."""

import asyncio

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.transparency_log.merkle import leaf_hash
from secrets_broker.ledger.transparency_log.stored_entries import read_rows
from tests.conftest import Database

_ALWAYS = """
    DO $$ DECLARE guarded record; BEGIN
        FOR guarded IN SELECT tgrelid::regclass AS name, tgname FROM pg_trigger
                       WHERE tgrelid IN ('ledger.events'::regclass, 'ledger.event_keys'::regclass)
                         AND NOT tgisinternal LOOP
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', guarded.name, guarded.tgname);
        END LOOP;
    END $$
"""


def unauthenticate(database: Database) -> None:
    """Take away what was not there then: the MACs, the event keys, and the first event's type.

    Of at most 256 events, and before any checkpoint: the first leaf is made anew.
    """
    with database.owner() as owner:
        for table in (b"ledger.events", b"ledger.event_keys"):
            owner.execute(b"ALTER TABLE %b DISABLE TRIGGER USER" % table)
        owner.execute("UPDATE ledger.events SET mac = NULL")
        owner.execute("DELETE FROM ledger.event_keys")
        owner.execute(
            "UPDATE ledger.events SET type = 'projection.rebuilt', details = NULL"
            " WHERE type = 'ledger.authenticated'"
        )
        for position, entry in asyncio.run(_entries(database)):
            owner.execute(
                "UPDATE ledger.events SET leaf_hash = %s WHERE position = %s",
                (leaf_hash(entry), position),
            )
        owner.execute(_ALWAYS)


async def _entries(database: Database) -> list[tuple[int, bytes]]:
    connection = await connect(database.owner_url)
    try:
        return [(row.position, row.entry) for row in await read_rows(connection, 0, 256)]
    finally:
        await connection.close()

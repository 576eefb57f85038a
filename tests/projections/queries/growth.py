"""A ledger that grows step by step, and the rows after each step."""

from hypothesis import strategies as st

from secrets_broker.ledger.commands import Command
from secrets_broker.ledger.encryption.keyring import Keyring
from tests.conftest import Database
from tests.ledger.helpers import CONTEXT, writing
from tests.projections.command_strategies import KEY_CHANGES, change_keys, commands

Texts = dict[int, str]
"""Rows as PostgreSQL writes them, by credential id."""
LIVE = "SELECT id, live::text FROM secrets.host_credentials AS live"


async def grow(
    database: Database, keyring: Keyring, wanted: list[Command | str]
) -> dict[int, Texts]:
    """Do these things; the live rows after each, by the last position then."""
    snapshots: dict[int, Texts] = {-1: {}}
    async with writing(database.service_url, keyring) as writer:
        for command in wanted:
            if isinstance(command, str):
                await change_keys(database, keyring, command)
            else:
                await writer.submit(command, CONTEXT)
            ((last,),) = database.fetch("SELECT coalesce(max(position), -1) FROM ledger.events")
            snapshots[last] = dict(database.fetch(LIVE))
    return snapshots


steps = st.lists(commands | st.sampled_from(KEY_CHANGES), min_size=1, max_size=12)

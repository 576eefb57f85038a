"""`secrets-broker proof`: the receipt of an event."""

import asyncio
from pathlib import Path

import click
import psycopg

from secrets_broker import logging_setup
from secrets_broker.ledger.database.ledger_session import TOOL_SESSION, connect
from secrets_broker.ledger.transactions import refused
from secrets_broker.ledger.transparency_log import stored_receipts
from secrets_broker.ledger.transparency_log.checkpoint_store import NotPublishedError
from secrets_broker.ledger.transparency_log.receipt import Receipt
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    load_settings,
    require_schema,
)
from secrets_broker.tools.shared.status import NotSo


@click.command()
@data_dir_option
@click.argument("position", type=click.IntRange(0, 2**63 - 1))
@click.option(
    "--size",
    type=click.IntRange(1, 2**63 - 1),
    help="Lead to the published checkpoint of this size instead of the newest.",
)
def proof(data_dir: Path | None, position: int, size: int | None) -> None:
    """Print the receipt of the event at POSITION: a C2SP tlog-proof.

    It holds the event's entry, its inclusion proof and the signed checkpoint. Keep it as
    FILE.tlog-proof; `secrets-broker verify --receipt FILE` checks it with nothing but the verifier
    key. The position is what a service answered as X-Ledger-Position.
    """
    logging_setup.configure(readable=True)
    with clear_errors():
        database_url = load_settings(data_dir).database_url
        require_schema(database_url)
        try:
            made = asyncio.run(_make(database_url, position, size))
        except NotPublishedError as error:
            raise NotSo(
                f"{error}. A running service that has LEDGER_SIGNING_KEY makes one soon after "
                "the ledger grew"
            ) from None
    click.echo(str(made), nl=False)


async def _make(database_url: str, position: int, size: int | None) -> Receipt:
    connection = await connect(database_url, TOOL_SESSION)
    try:
        return await stored_receipts.receipt(connection, position, size)
    except psycopg.Error as error:
        raise refused(error) from None
    finally:
        await connection.close()

"""`secrets-broker serve`: check what can be checked, then become gunicorn."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from secrets_broker import logs
from secrets_broker.ledger.connection import connect
from secrets_broker.ledger.errors import LedgerUnavailableError, WrongKeyError
from secrets_broker.ledger.keks import check_keys
from secrets_broker.ledger.keyring import Keyring
from secrets_broker.migrations import runner
from secrets_broker.migrations.errors import CannotConnectError
from secrets_broker.settings import DATA_DIR, Settings
from secrets_broker.tools.common import clear_errors, data_dir_option, keyring, say
from secrets_broker.tools.erase_again import check_erasures

# Not imported: it makes a folder for the counters of the gunicorn that reads it.
_CONFIGURATION: Final = "python:secrets_broker.http.gunicorn_conf"


def server_command(host: str, port: int, workers: int) -> list[str]:
    """gunicorn with the shipped configuration; no secret is in its arguments."""
    return [
        *(sys.executable, "-m", "gunicorn", "--config", _CONFIGURATION),
        *("--bind", f"[{host}]:{port}" if ":" in host else f"{host}:{port}"),
        *("--workers", str(workers)),
    ]


def default_workers() -> int:
    """Half the cores, since PostgreSQL works as hard as a worker does; at least one."""
    return max(1, (os.cpu_count() or 2) // 2)


@click.command()
@data_dir_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3003, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--workers",
    default=default_workers,
    show_default="half the cores",
    type=click.IntRange(1, 64),
    help="Processes; they all wait for one ledger, so few with large batches are fastest.",
)
def serve(data_dir: Path | None, host: str, port: int, workers: int) -> None:
    """Serve the internal API with gunicorn, with settings from the environment."""
    settings = Settings.load(data_dir)
    logs.configure(readable=settings.readable_logs)
    with clear_errors():
        _check(settings)
        check_erasures(settings)
    if settings.data_dir is not None:
        os.environ[DATA_DIR] = str(settings.data_dir)
    _become(server_command(host, port, workers))


def _become(command: list[str]) -> NoReturn:
    # Not from a shell, and every part is ours but host and port, which click has checked.
    os.execv(command[0], command)  # noqa: S606


def _check(settings: Settings) -> None:
    """Name what is missing now, rather than request by request."""
    keys, _ = keyring(settings), settings.internal_key
    try:
        missing = runner.pending(settings.database_url)
    except CannotConnectError as error:
        # Not fatal: the service answers 503 until the database is there.
        say(f"warning: {error}")
        return
    if missing:
        raise click.ClickException(
            f"the database lacks {', '.join(missing)}: run secrets-broker migrate"
        )
    asyncio.run(_check_keys(settings.database_url, keys))


async def _check_keys(database_url: str, keys: Keyring) -> None:
    try:
        connection = await connect(database_url)
    except LedgerUnavailableError as error:
        say(f"warning: {error}")
        return
    try:
        await check_keys(connection, keys)
    except WrongKeyError as error:
        raise click.ClickException(str(error)) from None
    finally:
        await connection.close()

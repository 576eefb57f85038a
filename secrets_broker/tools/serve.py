"""`secrets-broker serve`: check what can be checked, then become gunicorn."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import click
import psycopg

from secrets_broker import logging_setup
from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keks import check_keys
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.encryption.kms import Provider
from secrets_broker.ledger.errors import (
    KmsError,
    LedgerUnavailableError,
    NotGrantedError,
    WrongKeyError,
)
from secrets_broker.ledger.rollback_detection.continuity import Continuity
from secrets_broker.ledger.rollback_detection.halt import stop_message
from secrets_broker.migrations.errors import CannotConnectError
from secrets_broker.session import with_grant
from secrets_broker.settings import DATA_DIR, Settings, Tls
from secrets_broker.tls import server_context
from secrets_broker.tools.erase.apply_again import check_erasures
from secrets_broker.tools.shared.command_line import (
    address_options,
    clear_errors,
    data_dir_option,
    load_settings,
    require_schema,
    say,
)
from secrets_broker.tools.shared.status import NotAsked
from secrets_broker.wiring import close, continuity, keyring, providers, signing_key, witnesses

IN_THE_CLEAR: Final = ("--certfile", "", "--keyfile", "")
"""gunicorn's options for what is never served over TLS, whatever the settings say."""

# Not imported: it makes a folder for the counters of the gunicorn that reads it.
_CONFIGURATION: Final = "python:secrets_broker.http.server.gunicorn_conf"


def server_command(host: str, port: int, workers: int, *application: str) -> list[str]:
    """gunicorn with the shipped configuration; no secret is in its arguments."""
    return [
        *(sys.executable, "-m", "gunicorn", "--config", _CONFIGURATION),
        *("--bind", f"[{host}]:{port}" if ":" in host else f"{host}:{port}"),
        *("--workers", str(workers)),
        *application,
    ]


def default_workers() -> int:
    """Half the cores, since PostgreSQL works as hard as a worker does; at least one."""
    return max(1, (os.cpu_count() or 2) // 2)


@click.command()
@data_dir_option
@address_options()
@click.option(
    "--workers",
    default=default_workers,
    show_default="half the cores",
    type=click.IntRange(1, 64),
    help="Processes; they all wait for one ledger, so few with large batches are fastest.",
)
def serve(data_dir: Path | None, host: str, port: int, workers: int) -> None:
    """Serve the internal API with gunicorn, with settings from the environment."""
    with clear_errors():
        settings = load_settings(data_dir)
        logging_setup.configure(readable=settings.readable_logs)
        _check(settings)
        check_erasures(settings)
    if settings.data_dir is not None:
        os.environ[DATA_DIR] = str(settings.data_dir)
    become(server_command(host, port, workers))


def become(command: list[str]) -> NoReturn:
    """Replace this process."""
    # Not from a shell, and every part is ours but host and port, which click has checked.
    os.execv(command[0], command)  # noqa: S606


def _check(settings: Settings) -> None:
    """Name what is missing now, rather than request by request."""
    keys, asked = check_shared_keys(settings), providers(settings)
    _ = settings.checkpoint_seconds, settings.metrics_seconds
    _ = settings.max_connections, settings.max_connections_per_source
    _ = signing_key(settings), witnesses(settings), settings.trusted_proxies
    _check_tls(settings.tls)
    check_checkpoint_file(continuity(settings))
    try:
        require_schema(settings.database_url)
    except CannotConnectError as error:
        # Not fatal: the service answers 503 until the database is there.
        say(f"warning: {error}")
        return
    asyncio.run(_check_keys(settings.database_url, keys, asked))


def check_shared_keys(settings: Settings) -> Keyring:
    """The keyring; raises SettingsError or UnfitKeyError for a key that is missing, or unfit."""
    keys = keyring(settings)
    _ = settings.internal_key_if_on, settings.auditor_key
    return keys


def _check_tls(tls: Tls | None) -> None:
    if tls is None:
        return
    server_context(tls)
    if tls.key_file.stat().st_mode & 0o077:
        say(f"warning: {tls.key_file} can be read by others: chmod 600 {tls.key_file}")


def check_checkpoint_file(known: Continuity) -> None:
    """Refuse to start where the file cannot be read, or could never be written."""
    if known.file is None:
        say(
            "warning: LEDGER_CHECKPOINT_FILE is not set: a database that is restored, or fails "
            "over to a standby that was behind, is not noticed once this service is restarted"
        )
        return
    try:
        known.file.read()
        stopped = known.file.facts.read().stopped
        known.file.check_writable()
    except (LedgerUnavailableError, OSError) as error:
        raise NotAsked(f"LEDGER_CHECKPOINT_FILE: {error}") from None
    if stopped:
        # Not fatal: /health/ready says so, until a person has acted.
        say(f"warning: {stop_message(stopped)}")


async def _check_keys(database_url: str, keys: Keyring, asked: Sequence[Provider]) -> None:
    try:
        connection = await connect(database_url)
    except NotGrantedError:
        raise  # no waiting helps: a person has to run the line
    except LedgerUnavailableError as error:
        say(f"warning: {error}")
        return
    try:
        await check_keys(connection, keys, asked)
    except psycopg.Error as error:
        raise NotAsked(with_grant(error)) from None
    except WrongKeyError as error:
        raise NotAsked(str(error)) from None
    except KmsError as error:
        # Not fatal either: the service asks again until its KMS answers.
        say(f"warning: {error}")
    finally:
        await connection.close()
        close(asked)

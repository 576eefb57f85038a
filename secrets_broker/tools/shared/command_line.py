"""What every command shares: its options, its settings, and errors that say what to do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import psycopg

from secrets_broker.ledger.errors import FoundError, LedgerError
from secrets_broker.ledger.events import MAX_NAME, Context
from secrets_broker.ledger.scheduling.advisory_lock import user_name
from secrets_broker.migrations import runner
from secrets_broker.migrations.errors import MigrationError, OutdatedSchemaError
from secrets_broker.session import with_grant
from secrets_broker.settings import Settings, SettingsError
from secrets_broker.tools.postgres import PostgresError
from secrets_broker.tools.shared.status import NotAsked, NotSo

F = TypeVar("F", bound=Callable[..., Any])


FORESEEN: Final = (SettingsError, LedgerError, MigrationError, PostgresError)
"""The errors that a user can do something about; of these a FoundError is an answer, status 1."""
_DATA_DIR = f"{__name__}.data_dir"


def data_dir_option(command: F) -> F:
    """Add --data-dir to a command; where it is not given, that of the group before it counts."""
    return _data_dir_option(expose_value=True)(command)


def group_data_dir_option(command: F) -> F:
    """Add --data-dir to a group: for the command behind it."""
    return _data_dir_option(expose_value=False)(command)


def _data_dir_option(*, expose_value: bool) -> Callable[[F], F]:
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="What `dev` made; its settings win over the environment's.",
        callback=_innermost,
        expose_value=expose_value,
    )


def _innermost(context: click.Context, _option: click.Parameter, value: Path | None) -> Path | None:
    # The contexts of a group and its commands share one `meta`; outer ones are read first.
    if value is not None:
        context.meta[_DATA_DIR] = value
    inherited: Path | None = context.meta.get(_DATA_DIR)
    return inherited


def address_options(port: int = 3003) -> Callable[[F], F]:
    """Add --host and --port to a command that serves."""
    number = click.option(
        "--port",
        default=port,
        show_default=True,
        type=click.IntRange(1, 65535),
        help="Port to listen on.",
    )
    host = click.option(
        "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
    )
    return lambda command: host(number(command))


def json_option(command: F) -> F:
    """Add --json to a command that reports something."""
    return click.option("--json", "as_json", is_flag=True, help="Report as JSON.")(command)


class DataDirError(SettingsError):
    """A data folder was named, and `dev` did not make it."""


def load_settings(data_dir: Path | None) -> Settings:
    """The settings; raises DataDirError where a data folder was named that has none.

    Else a misspelt folder would have the command work on whatever the environment names.
    """
    settings = Settings.load(data_dir)
    if settings.data_dir is not None and not (settings.data_dir / ".env").is_file():
        raise DataDirError(
            f"{settings.data_dir} has no .env: name the folder that `secrets-broker dev` made"
        )
    return settings


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what a user can do something about into one line; see tools/status for what it says."""
    try:
        yield
    except FORESEEN as error:
        ended = NotSo if isinstance(error, FoundError) else NotAsked
        raise ended(str(error)) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise NotAsked(with_grant(error)) from None


def require_schema(database_url: str) -> None:
    """Raise OutdatedSchemaError (a MigrationError) where the database lacks a file's part."""
    missing = runner.pending(database_url)
    if missing:
        raise OutdatedSchemaError(
            f"the database lacks {', '.join(missing)}: run secrets-broker migrate"
        )


def operator(reason: str | None = None) -> Context:
    """Who runs the command, as the operating system knows it."""
    return Context(actor=user_name()[:MAX_NAME], authn="cli", reason=reason)


def say(text: str) -> None:
    """Tell the user something that is not the command's result."""
    click.echo(text, err=True)

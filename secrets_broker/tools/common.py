"""What every command shares: the --data-dir option, and errors that say what to do."""

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.events import Context
from secrets_broker.migrations.errors import MigrationError
from secrets_broker.settings import MissingSettingError
from secrets_broker.tools.postgres import PostgresError

F = TypeVar("F", bound=Callable[..., Any])


def data_dir_option(command: F) -> F:
    """Add --data-dir to a command."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="What `dev` made; its settings win over the environment's.",
    )(command)


def json_option(command: F) -> F:
    """Add --json to a command that reports something."""
    return click.option("--json", "as_json", is_flag=True, help="Report as JSON.")(command)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what a user can do something about into one line and exit status 1."""
    try:
        yield
    except (MissingSettingError, LedgerError, MigrationError, PostgresError) as error:
        raise click.ClickException(str(error)) from None


def operator(reason: str | None = None) -> Context:
    """Who runs the command, as the operating system knows it."""
    return Context(actor=getpass.getuser()[:100], authn="cli", reason=reason)


def say(text: str) -> None:
    """Tell the user something that is not the command's result."""
    click.echo(text, err=True)

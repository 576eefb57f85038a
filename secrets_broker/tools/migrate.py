"""`secrets-broker migrate`: apply the SQL files, or take everything back."""

from pathlib import Path

import click
import msgspec

from secrets_broker import logging_setup
from secrets_broker.migrations import runner
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    json_option,
    load_settings,
    say,
)
from secrets_broker.tools.shared.status import confirm


@click.command()
@data_dir_option
@json_option
@click.option("--rollback", is_flag=True, help="Remove all; earlier tables get their names back.")
@click.option("--yes", is_flag=True, help="Do not ask before events are destroyed.")
def migrate(data_dir: Path | None, as_json: bool, rollback: bool, yes: bool) -> None:
    """Bring the database's schema up to date.

    Uses MIGRATION_DATABASE_URL, the owner of the schemas, else DATABASE_URL.
    """
    logging_setup.configure(readable=True)
    with clear_errors():
        url = load_settings(data_dir).migration_database_url
        report = {"rolled_back": _roll_back(url, yes)} if rollback else {"applied": _apply(url)}
    if as_json:
        click.echo(msgspec.json.encode(report))


def _apply(url: str) -> list[str]:
    applied = runner.apply(url, say)
    if not applied:
        say("the schema is up to date")
    return applied


def _roll_back(url: str, yes: bool) -> list[str]:
    events = runner.count_events(url)
    if events and not yes:
        question = f"This destroys the ledger and its {events} events. Continue?"
        confirm(question)
    removed = runner.rollback(url, say)
    if not removed:
        say("there is nothing to remove")
    return removed

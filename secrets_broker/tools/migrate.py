"""`secrets-broker migrate`: apply the SQL files, or take everything back."""

from pathlib import Path

import click

from secrets_broker.migrations import runner
from secrets_broker.settings import Settings
from secrets_broker.tools.common import clear_errors, data_dir_option, say


@click.command()
@data_dir_option
@click.option("--rollback", is_flag=True, help="Remove all; earlier tables get their names back.")
@click.option("--yes", is_flag=True, help="Do not ask before events are destroyed.")
def migrate(data_dir: Path | None, rollback: bool, yes: bool) -> None:
    """Bring the database's schema up to date.

    Uses MIGRATION_DATABASE_URL, the owner of the schemas, else DATABASE_URL.
    """
    with clear_errors():
        url = Settings.load(data_dir).migration_database_url
        if rollback:
            _roll_back(url, yes)
        elif not runner.apply(url, say):
            say("the schema is up to date")


def _roll_back(url: str, yes: bool) -> None:
    events = runner.count_events(url)
    if events and not yes:
        click.confirm(f"This destroys the ledger and its {events} events. Go on?", abort=True)
    if not runner.rollback(url, say):
        say("there is nothing to remove")

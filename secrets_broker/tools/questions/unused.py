"""`secrets-broker unused`: live credentials that nobody looks up."""

from datetime import datetime
from pathlib import Path

import click

from secrets_broker.projections.moment import parse_moment
from secrets_broker.projections.questions import unused as question
from secrets_broker.tools.common import data_dir_option
from secrets_broker.tools.output import Form, Output, form_options
from secrets_broker.tools.questions.asking import Connection, ask, write_all

TABLE = (
    *("host", "purpose", "last_read_at", "last_read_by", "last_read_position"),
    *("updated_at", "updated_by", "created_at"),
)


@click.command()
@data_dir_option
@click.option("--since", required=True, help="RFC 3339, or how long ago, as 90d.")
@form_options
def unused(data_dir: Path | None, since: str, form: Form) -> None:
    """List the live credentials that nobody has read since a time, or ever.

    A read is a successful lookup of that credential, of whatever version; lines that were
    imported count from when they happened. One with a last position and no time was read, and
    nobody knows when.

    No secret is read, and nothing is recorded. An auditor's login is enough. Exit status 0 also
    where there is none.

    \b
    Example:
      secrets-broker unused --since 90d
    """

    async def run(connection: Connection) -> None:
        await _unused(connection, parse_moment("since", since), form)

    ask(data_dir, run)


async def _unused(connection: Connection, since: datetime, form: Form) -> None:
    async def page(
        connection: Connection, limit: int, after: question.Cursor | None
    ) -> tuple[list[question.Line], question.Cursor | None]:
        return await question.page(connection, since, limit, after)

    empty = "every live credential has been read since then"
    with Output(form, question.Line, TABLE, empty) as output:
        await write_all(connection, page, output.write)

"""`secrets-broker unused`: live credentials that nobody looks up."""

from typing import Any

import click

from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.projections.parameters.times import parse_moment
from secrets_broker.projections.queries import unused as question
from secrets_broker.tools.queries.asking import (
    Connection,
    Found,
    Page,
    Question,
    QuestionTarget,
    place_options,
    put,
    write_all,
)
from secrets_broker.tools.shared.command_line import clear_errors
from secrets_broker.tools.shared.output import Form, Output, form_options

TABLE = (
    *("host", "purpose", "last_read_at", "last_read_by", "last_read_position"),
    *("updated_at", "updated_by", "created_at"),
)


@click.command()
@place_options
@click.option("--since", required=True, help="RFC 3339, or how long ago, as 90d.")
@form_options
def unused(place: QuestionTarget, since: str, form: Form) -> None:
    """List the live credentials that nobody has read since a time, or ever.

    What was made since then is left out: it was not there to be read before.

    A read is a successful lookup of that credential, of whatever version; lines that were
    imported count from when they happened. One with a last position and no time was read, and
    nobody knows when.

    No secret is read, and nothing is recorded. An auditor's login is enough, or with --url
    AUDITOR_KEY. Exit status 0 also where there is none.

    \b
    Example:
      secrets-broker unused --since 90d
    """

    with clear_errors():
        moment = parse_moment("since", since)

    async def page(connection: Connection, limit: int, after: Any) -> Found[question.UnusedLine]:
        return Found(*await question.page(connection, moment, limit, after))

    fields = {"since": rfc3339(moment)}
    put(
        place,
        Question("unused", fields, question.UnusedLine, page),
        lambda pages: _write(pages, form),
    )


async def _write(pages: Page[question.UnusedLine], form: Form) -> None:
    empty = "every live credential has been read since then, or was made since"
    with Output(form, question.UnusedLine, TABLE, empty) as output:
        await write_all(pages, output.write)

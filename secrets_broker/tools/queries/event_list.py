"""`secrets-broker events`: the record itself, filtered."""

from typing import Any

import click

from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.projections.parameters.times import parse_moment
from secrets_broker.projections.queries import event_list as question
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
    *("position", "at", "occurred_at", "type", "error", "host", "purpose", "version"),
    *("actor", "ip", "reason"),
)
_TIMES = {"since", "until"}


@click.command()
@place_options
@click.option("--host", help="Only hosts of that pattern; * is any run of characters.")
@click.option("--purpose", help="Only purposes of that pattern.")
@click.option("--actor", help="Only actors of that pattern.")
@click.option("--reason", help="Only reasons of that pattern.")
@click.option("--type", "types", multiple=True, help="Only types of that pattern; repeatable.")
@click.option("--ok/--failed", default=None, help="Only what succeeded, or only what did not.")
@click.option("--error", help="Only failures for that: not_found, expired, decrypt_failed …")
@click.option("--since", help="Only what happened then or later: RFC 3339, or as 30d ago.")
@click.option("--until", help="Only what happened before then.")
@click.option("--after", help="Only behind that position.")
@click.option("--newest-first", is_flag=True, help="From the end of the record backwards.")
@click.option("--limit", type=click.IntRange(1), help="So many at most.")
@form_options
def events(
    place: QuestionTarget,
    types: tuple[str, ...],
    ok: bool | None,
    newest_first: bool,
    limit: int | None,
    form: Form,
    **texts: str | None,
) -> None:
    """List the ledger's events, in the order of the record.

    All filters have to match. What happened when is `occurred_at` where it was imported, else
    `at`. A table leaves out details, body and leaf hash; --json and --csv have every column of an
    event. The content of a body is never shown.

    No secret is read, and nothing is recorded. An auditor's login is enough, or with --url
    AUDITOR_KEY. Exit status 0 also where there is none.

    \b
    Example:
      secrets-broker events --type 'credential.*' --failed --since 7d --host '*.example'
    """
    given = {name: text for name, text in texts.items() if text is not None}
    if ok is not None:
        given["outcome"] = "ok" if ok else "failed"
    given["order"] = question.NEWEST if newest_first else question.OLDEST
    with clear_errors():
        # How long ago is meant from now on, and not from when each page is asked for.
        given |= {name: rfc3339(parse_moment(name, given[name])) for name in _TIMES & given.keys()}
        wanted = question.EventFilter.parse(given, types)

    async def page(connection: Connection, count: int, after: Any) -> Found[question.EventLine]:
        return Found(*await question.page(connection, wanted, count, after))

    asked = Question("events", {**given, "type": ",".join(types) or None}, question.EventLine, page)
    put(place, asked, lambda pages: _write(pages, form, limit))


async def _write(pages: Page[question.EventLine], form: Form, limit: int | None) -> None:
    with Output(form, question.EventLine, TABLE, "there are no such events") as output:
        await write_all(pages, output.write, limit)

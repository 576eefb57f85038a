"""`secrets-broker history`: every version that a credential ever had."""

from pathlib import Path

import click

from secrets_broker.projections.questions import history as question
from secrets_broker.projections.questions.named import Named
from secrets_broker.tools.common import data_dir_option
from secrets_broker.tools.output import Form, Output, form_options
from secrets_broker.tools.questions.asking import Connection, ask, write_all
from secrets_broker.tools.status import NotSo

TABLE = (
    *("credential_id", "version", "type", "position", "at", "actor", "authn", "ip", "reason"),
    *("request_id", "live", "ended_by", "ended_at", "erased_at"),
)


@click.command()
@click.argument("host")
@click.argument("purpose")
@data_dir_option
@form_options
def history(host: str, purpose: str, data_dir: Path | None, form: Form) -> None:
    """List each version that HOST's PURPOSE ever had, oldest first.

    Who made it, when, why and from where; until when it was live and what ended it; and whether
    its stored content was erased. A credential that was stored again after a delete is another
    one: its own id, and versions from 1.

    No secret is read, and nothing is recorded. An auditor's login is enough. Exit status 1 where
    there never was such a credential.

    \b
    Example:
      secrets-broker history db1.example ssh
    """
    ask(data_dir, lambda connection: _history(connection, host, purpose, form))


async def _history(connection: Connection, host: str, purpose: str, form: Form) -> None:
    name = Named.parse(host, purpose)
    first, _ = await question.page(connection, name, 1)
    if not first:
        raise NotSo(NEVER)

    async def page(
        connection: Connection, limit: int, after: question.Cursor | None
    ) -> tuple[list[question.Version], question.Cursor | None]:
        return await question.page(connection, name, limit, after)

    with Output(form, question.Version, TABLE, NEVER) as output:
        await write_all(connection, page, output.write)


NEVER = "there never was a credential of this name; names are compared exactly"

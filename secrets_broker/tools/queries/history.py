"""`secrets-broker history`: every version that a credential ever had."""

from typing import Any

import click

from secrets_broker.projections.parameters.credential_name import CredentialName
from secrets_broker.projections.queries import history as question
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
from secrets_broker.tools.shared.status import NotSo

TABLE = (
    *("credential_id", "version", "type", "position", "at", "actor", "authn", "ip", "reason"),
    *("request_id", "live", "ended_by", "ended_at", "erased_at"),
)
NEVER = "there never was a credential of this name; names are compared exactly"


@click.command()
@click.argument("host")
@click.argument("purpose")
@place_options
@form_options
def history(host: str, purpose: str, place: QuestionTarget, form: Form) -> None:
    """List each version that HOST's PURPOSE ever had, oldest first.

    Who made it, when, why and from where; until when it was live and what ended it; and whether
    its stored content was erased. A credential that was stored again after a delete is another
    one: its own id, and versions from 1.

    No secret is read, and nothing is recorded. An auditor's login is enough, or with --url
    AUDITOR_KEY. Exit status 1 where there never was such a credential.

    \b
    Example:
      secrets-broker history db1.example ssh
    """
    with clear_errors():
        name = CredentialName.parse(host, purpose)

    async def page(connection: Connection, limit: int, after: Any) -> Found[question.Version]:
        return Found(*await question.page(connection, name, limit, after))

    fields = {"host": host, "purpose": purpose}
    put(
        place,
        Question("history", fields, question.Version, page),
        lambda pages: _write(pages, form),
    )


async def _write(pages: Page[question.Version], form: Form) -> None:
    if not (await pages(1, None)).lines:
        raise NotSo(NEVER)
    with Output(form, question.Version, TABLE, NEVER) as output:
        await write_all(pages, output.write)

"""`secrets-broker access who`: who could do what to a credential, now."""

import json
from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec

from secrets_broker.projections.parameters.credential_name import CredentialName
from secrets_broker.projections.queries import who_may as question
from secrets_broker.settings import Settings
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
from secrets_broker.tools.shared.command_line import clear_errors, json_option, load_settings
from secrets_broker.tools.shared.output import Form, Output

TABLE: Final = (
    *("name", "allow", "rule", "hosts", "purposes", "networks", "reason", "proof", "id"),
    *("requests", "hosts_limit", "expires_at", "previous_until"),
)
_SHARED: Final = {
    True: "INTERNAL_KEY is on: it reads, writes and deletes this, and all else",
    False: "INTERNAL_KEY is off: it opens nothing",
    None: "INTERNAL_KEY: these settings do not say whether a service has it on; ask one with --url",
}


@click.command()
@click.argument("host")
@click.argument("purpose")
@place_options
@json_option
def who(host: str, purpose: str, place: QuestionTarget, as_json: bool) -> None:
    """List every grant that could read, write or delete HOST's PURPOSE now, and by which rule.

    A line is a rule that may decide; networks, reasons, limits and the end of the grant bound it
    further. Whether INTERNAL_KEY is on is part of the answer: from --url it is the service's own,
    else that of these settings. It is not asked whether there is such a credential.

    Nothing is recorded. An auditor's login is enough, or with --url AUDITOR_KEY. Exit status 0
    also where nobody could.

    \b
    Example:
      secrets-broker access who db1.example ssh
    """
    with clear_errors():
        name = CredentialName.parse(host, purpose)
        internal_key = None if place.url else _is_on(load_settings(place.data_dir))

    async def page(connection: Connection, limit: int, after: Any) -> Found[question.WhoLine]:
        lines, following = await question.page(connection, name, datetime.now(UTC), limit, after)
        return Found(lines, following, internal_key=internal_key)

    asked = Question("who", {"host": host, "purpose": purpose}, question.WhoLine, page)
    lines, internal_key = put(place, asked, _all)
    if as_json:
        shown = {"host": host, "purpose": purpose, "internal_key": internal_key}
        click.echo(json.dumps({**shown, "items": msgspec.to_builtins(lines)}))
        return
    with Output(Form.TABLE, question.WhoLine, TABLE, "no grant could do anything there") as output:
        output.write(lines)
    click.echo(_SHARED[internal_key])


async def _all(page: Page[question.WhoLine]) -> tuple[list[question.WhoLine], bool | None]:
    lines: list[question.WhoLine] = []
    internal_key = (await page(1, None)).internal_key
    await write_all(page, lines.extend)
    return lines, internal_key


def _is_on(settings: Settings) -> bool | None:
    """Whether the settings say that it is; None where they have no key and do not switch it off."""
    if settings.internal_key_is_off:
        return False
    return True if settings.get("INTERNAL_KEY") else None

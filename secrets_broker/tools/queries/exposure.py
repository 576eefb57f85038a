"""`secrets-broker exposure`: who received a version of a credential."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import click
import msgspec

from secrets_broker.ledger.encoding import rfc3339_or_none
from secrets_broker.projections.parameters.credential_name import CredentialName
from secrets_broker.projections.queries import exposure as question
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
from secrets_broker.tools.queries.history import NEVER
from secrets_broker.tools.shared.command_line import clear_errors, say
from secrets_broker.tools.shared.output import Form, Output, form_options
from secrets_broker.tools.shared.status import NotSo

TABLE = ("position", "received_at", "version", "actor", "authn", "ip", "reason", "request_id")
SUMMARY = ("actor", "authn", "version", "first_at", "last_at", "count")
NOBODY = "nobody received it, as far as the record goes"


class Receiver(msgspec.Struct, frozen=True, kw_only=True):
    """All that one actor received of the version; times are when it happened, where known."""

    actor: str | None
    authn: str
    credential_id: int
    version: int | None
    live: bool
    first_at: str
    last_at: str
    count: int


@click.command()
@click.argument("host")
@click.argument("purpose")
@place_options
@click.option("--credential-id", help="Which credential of that name [the newest].")
@click.option("--version", help="Which version of it [the live one, or else the last].")
@click.option("--since", help="Only who received it then or later: RFC 3339, or as 30d ago.")
@click.option("--until", help="Only who received it before then.")
@click.option("--summary", is_flag=True, help="One line for each actor: first, last, how often.")
@form_options
def exposure(
    *,
    host: str,
    purpose: str,
    place: QuestionTarget,
    credential_id: str | None,
    version: str | None,
    since: str | None,
    until: str | None,
    summary: bool,
    form: Form,
) -> None:
    """List who received a version of HOST's PURPOSE, by the record of successful lookups.

    A password that `replay --reveal` showed counts too, however long after the version ended.

    Which version that is, and whether it is still live, is said on standard error. Versions begin
    at 1 again where a name was stored again after a delete: see `history` for the ids.

    A line without a version is from an earlier installation's access log, which counted none: it
    read this credential, and whether it was given this content is not known.

    No secret is read, and nothing is recorded. An auditor's login is enough, or with --url
    AUDITOR_KEY. Exit status 1 where there never was such a version.

    \b
    Example:
      secrets-broker exposure db1.example ssh --version 3 --summary
    """
    with clear_errors():
        name = CredentialName.parse(host, purpose)
        which = question.Which.parse(credential_id, version)
        span = question.Span.parse(since, until)

    async def page(connection: Connection, limit: int, after: Any) -> Found[question.Disclosure]:
        exposed = await question.find(connection, name, which.continued(after) if after else which)
        if exposed is None:
            return Found([])
        found = await question.page(connection, exposed, limit, after, span=span)
        return Found(*found, exposed)

    times = {"since": span.since, "until": span.until}
    fields = {
        **{"host": host, "purpose": purpose, "credential_id": credential_id, "version": version},
        **{limit: rfc3339_or_none(moment) for limit, moment in times.items()},
    }
    never = f"{NEVER}, or no such version of it" if which != question.LATEST else NEVER
    asked = Question("exposure", fields, question.Disclosure, page)
    put(place, asked, lambda pages: _write(pages, never, summary, form))


async def _write(pages: Page[question.Disclosure], never: str, summary: bool, form: Form) -> None:
    exposed = (await pages(1, None)).exposed
    if exposed is None:
        raise NotSo(never)
    say(_told(exposed))
    receivers = _Receivers()
    if not summary:
        with Output(form, question.Disclosure, TABLE, NOBODY) as output:

            def write(lines: list[question.Disclosure]) -> None:
                output.write(lines)
                if form is Form.TABLE:
                    receivers.add(lines)

            await write_all(pages, write)
    else:
        await write_all(pages, receivers.add)
    if summary or receivers.by_caller:
        with Output(form, Receiver, SUMMARY, NOBODY) as output_of_all:
            output_of_all.write(receivers.lines(exposed))


def _told(exposed: question.Exposed) -> str:
    which = f"credential {exposed.credential_id}, version {exposed.version}"
    if exposed.live:
        return f"{which}: live since {exposed.made_at}"
    what = (exposed.ended_by or "").removeprefix("credential.")
    return f"{which}: not live; from {exposed.made_at} until it was {what} at {exposed.ended_at}"


@dataclass(slots=True)
class _Receivers:
    """Counts by who received it; as large as there are receivers, not lines."""

    by_caller: dict[tuple[str | None, str, int | None], tuple[str, str, int]] = field(
        default_factory=dict
    )

    def add(self, lines: list[question.Disclosure]) -> None:
        """Count these."""
        for line in lines:
            who = line.actor, line.authn, line.version
            when = line.received_at
            first, last, count = self.by_caller.get(who, (when, when, 0))
            self.by_caller[who] = min(first, when), max(last, when), count + 1

    def lines(self, exposed: question.Exposed) -> Iterator[Receiver]:
        """Who received it, the first one first."""
        for who, (first, last, count) in sorted(self.by_caller.items(), key=lambda it: it[1]):
            actor, authn, version = who
            yield Receiver(
                actor=actor,
                authn=authn,
                credential_id=exposed.credential_id,
                version=version,
                live=exposed.live,
                first_at=first,
                last_at=last,
                count=count,
            )

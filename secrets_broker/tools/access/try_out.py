"""`secrets-broker access explain` and `replay`: what rights come to, before anybody is refused."""

import ipaddress
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from secrets_broker.ledger.access.grants import Granted, Grants, judge
from secrets_broker.ledger.access.rights import OPERATIONS, Request, Rights, fit
from secrets_broker.ledger.access.stored_grants import read_grants
from secrets_broker.ledger.commands import parse
from secrets_broker.ledger.errors import FieldError, InvalidCommandError
from secrets_broker.ledger.events import Subject
from secrets_broker.projections.parameters.times import parse_moment
from secrets_broker.projections.queries import what_if
from secrets_broker.tools.access.rights_options import RightsOptions, read_json, rights_options
from secrets_broker.tools.queries.asking import Connection, ask
from secrets_broker.tools.shared.command_line import clear_errors, data_dir_option, json_option, say
from secrets_broker.tools.shared.output import Form, Output, form_options
from secrets_broker.tools.shared.progress import progress_bar
from secrets_broker.tools.shared.status import NotSo

_TABLE: Final = (
    *("actor", "operation", "host", "purpose", "ip", "rule"),
    *("count", "first_at", "last_at", "last_position"),
)


def _address(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    try:
        return str(ipaddress.ip_address(text)) if text is not None else None
    except ValueError:
        raise click.BadParameter("must be an address, as 10.1.2.3 or 2001:db8::1") from None


@click.command()
@click.argument("name")
@click.argument("operation", type=click.Choice(OPERATIONS))
@click.argument("host", required=False)
@click.argument("purpose", required=False)
@data_dir_option
@json_option
@click.option("--ip", callback=_address, help="From that address.")
@click.option("--reason", help="With that X-Access-Reason.")
def explain(
    name: str,
    operation: str,
    host: str | None,
    purpose: str | None,
    data_dir: Path | None,
    as_json: bool,
    ip: str | None,
    reason: str | None,
) -> None:
    """Say whether NAME's key would be allowed OPERATION on HOST and PURPOSE, and by which rule.

    Nothing is asked for and nothing is recorded. Exit status 0 where it is allowed, else 1.

    \b
    Example:
      secrets-broker access explain deploy read web-1 ssh --ip 10.1.2.3
    """
    asked = Request(operation, datetime.now(UTC), host, purpose, ip, reason)

    async def find(connection: Connection) -> dict[str, Any]:
        return _explained(await read_grants(connection), name, asked)

    found = ask(data_dir, find)
    click.echo(json.dumps(found) if as_json else _sentence(found))
    raise SystemExit(0 if found["allowed"] else 1)


def _explained(grants: Grants, name: str, asked: Request) -> dict[str, Any]:
    granted = grants.named(name) or _last_revoked(grants, name)
    if granted is None:
        raise NotSo("name: was never granted anything")
    refusal = judge(grants, _as_presented(granted), asked)
    decided = fit(granted.rights.rules, asked) if granted.rights else None
    rule = decided.rule if decided and (refusal is None or refusal.authn) else None
    shown = granted.rights.details["rules"][rule - 1] if granted.rights and rule else None
    return {
        "allowed": refusal is None,
        "name": granted.name,
        "id": granted.id,
        "rule": rule,
        "rights": shown,
        "error": refusal.error if refusal else None,
        "refused_by": refusal.rule if refusal else None,
    }


def _last_revoked(grants: Grants, name: str) -> Granted | None:
    of_that_name = [granted for granted in grants.by_id.values() if granted.name == name]
    return of_that_name[-1] if of_that_name else None


def _as_presented(granted: Granted) -> Subject:
    """What a caller with the newest key would show."""
    if granted.certificate:
        return Subject(certificate=granted.name, fingerprint="")
    return Subject(sha256=list(granted.keys)[-1])


def _sentence(found: dict[str, Any]) -> str:
    rule = f"rule {found['rule']}: {json.dumps(found['rights'])}" if found["rule"] else ""
    if found["allowed"]:
        return f"allowed by {rule}"
    because = {
        "expired": "the grant has expired",
        "revoked": "the grant is revoked",
        "reason": f"it needs an X-Access-Reason, by {rule}",
    }
    fallback = f"no rule fits; the nearest one fails at the {found['refused_by']}"
    return f"{found['error']}: {because.get(found['refused_by'], fallback)}"


@click.command("replay")
@click.argument("name", required=False)
@data_dir_option
@form_options
@click.option("--days", default=30, show_default=True, type=click.IntRange(1, 3_650))
@click.option(
    "--grants",
    "grants_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help='A proposed set: JSON, {"NAME": {"rules": [...]}, ...}.',
)
@rights_options
def replay_grants(
    name: str | None,
    data_dir: Path | None,
    form: Form,
    days: int,
    grants_file: Path | None,
    **rights: Any,
) -> None:
    """List what proposed grants would have refused of all that was asked for lately.

    With NAME and the options of `access change`, those rights are tried on what NAME did; with
    --grants, a set of grants on what everybody did; with neither, the grants that are in force. Who
    used the shared key is judged by the name that it gave (X-Service-Name). Limits and the end of a
    grant are left out. Nothing is changed and nothing is recorded.

    Exit status 0 where nothing would have been refused, else 1.

    \b
    Example:
      secrets-broker access replay deploy --days 30 --allow read --host 'web-*' --purpose ssh
    """
    with clear_errors():
        proposed = _proposed(name, grants_file, RightsOptions(**rights))
        since = parse_moment("days", f"{days}d")

    async def run(connection: Connection) -> what_if.WhatIf:
        chosen = what_if.current(await read_grants(connection)) if proposed is None else proposed
        found = what_if.WhatIf(chosen, since, name)
        with progress_bar() as tell:
            async for done, total in found.run(connection):
                tell("events", done, total)
        return found

    found = ask(data_dir, run)
    empty = f"nothing would have been refused, of {found.asked} requests in {days} days"
    with Output(form, what_if.WhatIfLine, _TABLE, empty) as output:
        output.write(found.lines())
    if found.refused:
        say(f"{found.refused} of {found.asked} requests in {days} days would have been refused")
        raise SystemExit(1)


def _proposed(
    name: str | None, grants_file: Path | None, options: RightsOptions
) -> dict[str, Rights] | None:
    if grants_file is not None:
        if options.given or name is not None:
            raise click.UsageError("--grants stands for itself")
        return _read(grants_file)
    if not options.given:
        return None
    if name is None:
        raise click.UsageError("name whose rights these are to be, or give --grants")
    return {name: options.rights()}


def _read(path: Path) -> dict[str, Rights]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise InvalidCommandError(FieldError("grants", "must be an object of rights by name"))
    return {name: parse(Rights, fields) for name, fields in content.items()}

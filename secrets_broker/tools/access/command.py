"""`secrets-broker access`: grant, change, list, revoke and rotate access keys."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from secrets_broker import logging_setup
from secrets_broker.ledger.access.access_key import digest, new_access_key, new_grant_id
from secrets_broker.ledger.access.grant_commands import (
    ChangeGrant,
    Grant,
    GrantCommand,
    Revoke,
    RotateKey,
)
from secrets_broker.ledger.commands import parse
from secrets_broker.ledger.encoding import label_problem, rfc3339
from secrets_broker.ledger.errors import InvalidCommandError
from secrets_broker.ledger.events import MAX_REASON
from secrets_broker.ledger.operations import granting
from secrets_broker.projections.parameters.times import parse_later
from secrets_broker.projections.queries import grant_list
from secrets_broker.settings import Settings
from secrets_broker.tools.access.rights_options import RightsOptions, rights_options
from secrets_broker.tools.queries.asking import Connection, ask
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    group_data_dir_option,
    json_option,
    load_settings,
    operator,
    require_schema,
    say,
)
from secrets_broker.tools.shared.output import Form, Output, form_options
from secrets_broker.tools.shared.status import Group, NotSo
from secrets_broker.wiring import login_to_append

_TABLE = (
    *("name", "id", "state", "proof", "rules", "expires_at", "requests", "hosts"),
    *("previous_until", "revoked_at", "last_used_at", "last_used_from"),
)
_reason = click.option("--reason", help="Why, for the record; at most 500 characters.")


@click.group(cls=Group)
@group_data_dir_option
def access() -> None:
    """Say who may do what: keys for services, with rights, that can be taken back.

    A key opens only what its rules allow. Every change is an event of the ledger, and is in force
    for every batch that any process begins after it.
    """


@access.command()
@click.argument("name")
@data_dir_option
@json_option
@rights_options
@click.option("--certificate", is_flag=True, help="No key: NAME is a client certificate's name.")
@_reason
def grant(
    name: str,
    data_dir: Path | None,
    as_json: bool,
    certificate: bool,
    reason: str | None,
    **rights: Any,
) -> None:
    """Give NAME rights, and a key, which is shown this once.

    The ledger keeps the key's SHA-256 only. NAME becomes the actor of all that the key does.

    \b
    Examples:
      secrets-broker access grant deploy --allow read --host 'web-*' --purpose ssh
      secrets-broker access grant spiffe://x/deploy --certificate --allow read \\
          --host '*' --purpose ssh --network 10.0.0.0/8 --expires 90d
    """
    key = None if certificate else new_access_key()
    grant_id = new_grant_id()
    with clear_errors():
        fields = {
            "grantee": name,
            "id": grant_id,
            "sha256": digest(key) if key else None,
            "rights": RightsOptions(**rights).rights(),
        }
        position = _record(load_settings(data_dir), parse(Grant, fields), reason)
    if as_json:
        shown = {"id": grant_id, "name": name, "key": key, "position": position}
        click.echo(json.dumps(shown))
    elif key:
        say(f"granted to {name!r}, event {position}; this key is not shown again:")
        click.echo(key)
    else:
        say(f"granted to whom a certificate names {name!r}, event {position}")


@access.command()
@click.argument("name")
@data_dir_option
@json_option
@rights_options
@_reason
def change(
    name: str, data_dir: Path | None, as_json: bool, reason: str | None, **rights: Any
) -> None:
    """Replace the rights of NAME's grant; its keys stay.

    Try it before: secrets-broker access replay NAME with the same options.
    """
    with clear_errors():
        command = parse(ChangeGrant, {"grantee": name, "rights": RightsOptions(**rights).rights()})
        position = _record(load_settings(data_dir), command, reason)
    _report(as_json, f"the rights of {name!r} are changed", name=name, position=position)


@access.command()
@click.argument("name")
@data_dir_option
@json_option
@_reason
def revoke(name: str, data_dir: Path | None, as_json: bool, reason: str | None) -> None:
    """End NAME's grant and all its keys, at once and for ever."""
    with clear_errors():
        command = parse(Revoke, {"grantee": name})
        position = _record(load_settings(data_dir), command, reason)
    _report(as_json, f"{name!r} is revoked", name=name, position=position)


@access.command()
@click.argument("name")
@data_dir_option
@json_option
@click.option(
    "--until",
    default="24h",
    show_default=True,
    help="How long the keys before are valid still: 12h, 0m, or until a time.",
)
@_reason
def rotate(name: str, data_dir: Path | None, as_json: bool, until: str, reason: str | None) -> None:
    """Give NAME another key, which is shown this once; the old one is valid until a time."""
    key = new_access_key()
    with clear_errors():
        ends = parse_later("until", until)
        fields = {"grantee": name, "sha256": digest(key), "previous_until": ends}
        position = _record(load_settings(data_dir), parse(RotateKey, fields), reason)
    if as_json:
        shown = {"name": name, "key": key, "previous_until": rfc3339(ends), "position": position}
        click.echo(json.dumps(shown))
        return
    say(f"keys of {name!r} before this one are valid until {rfc3339(ends)}; it is not shown again:")
    click.echo(key)


@access.command("list")
@data_dir_option
@form_options
@click.option("--all", "everything", is_flag=True, help="Those that are revoked, too.")
def list_grants(data_dir: Path | None, form: Form, everything: bool) -> None:
    """List who may do what, until when, and when each key was used last."""

    async def show(connection: Connection) -> None:
        lines = await grant_list.lines(connection, datetime.now(UTC))
        empty = "nobody was granted anything: secrets-broker access grant --help"
        with Output(form, grant_list.GrantLine, _TABLE, empty) as output:
            output.write(line for line in lines if everything or line.state != grant_list.REVOKED)

    ask(data_dir, show)


def _record(settings: Settings, command: GrantCommand, reason: str | None) -> int:
    if reason is not None and (problem := label_problem(reason, MAX_REASON)):
        raise click.UsageError(f"--reason {problem}")
    logging_setup.configure(readable=True)
    url = settings.migration_database_url
    require_schema(url)

    async def record() -> int:
        login = await login_to_append(settings, url)
        return await granting.change(login, command, operator(reason))

    try:
        return asyncio.run(record())
    except InvalidCommandError as error:
        if any(found.field != "name" for found in error.errors):
            raise
        # Nothing is wrong with what was given: the ledger says that nobody has it, or somebody has.
        raise NotSo(str(error)) from None


def _report(as_json: bool, text: str, **fields: Any) -> None:
    click.echo(json.dumps(fields) if as_json else f"{text}, event {fields['position']}")

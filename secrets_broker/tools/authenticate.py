"""`secrets-broker authenticate`: demand MACs of a ledger from before there were any."""

import asyncio
from pathlib import Path
from typing import Any

import click
import msgspec

from secrets_broker import logging_setup
from secrets_broker.ledger.access.grants import Granted
from secrets_broker.ledger.operations.require_macs import (
    ToAccept,
    authenticate,
    authenticated_since,
    to_accept,
)
from secrets_broker.ledger.transactions import Login
from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint, open_checkpoint
from secrets_broker.settings import Settings
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    json_option,
    load_settings,
    operator,
    require_schema,
    say,
)
from secrets_broker.tools.verify.inputs import kept_checkpoint, known_keys, read
from secrets_broker.tools.verify.run_checks import VerifyPlan
from secrets_broker.tools.verify.verification import Job
from secrets_broker.wiring import login_to_append, verifier_keys

_WARNING = """\
Nothing tells whether an event from before was made by a service or by somebody else who had the
database's login. Look at what is believed from here on: do you know each of these?"""


@click.command("authenticate", short_help="Demand MACs of a ledger from before there were any.")
@data_dir_option
@json_option
@click.option("--since", metavar="FILE", help="A checkpoint that was kept elsewhere.")
@click.option("--changes", default=20, show_default=True, help="How many changes to show.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def authenticate_command(
    *, data_dir: Path | None, as_json: bool, since: str | None, changes: int, yes: bool
) -> None:
    """Demand a MAC of every event from here on.

    A ledger that was begun by this version has MACs from its first event, and needs no such step.
    One from before is verified first, against a checkpoint that was kept elsewhere where there is
    one (--since, LEDGER_CHECKPOINT_FILE). Then the grants that are valid and the newest changes
    are shown for somebody to look at: a forgery among them would be believed for ever. Services
    of an earlier version can write no more afterwards, and answer 503.

    Exit 0 where the ledger is authenticated, 1 where it does not verify or was not accepted.
    """
    logging_setup.configure(readable=True)
    with clear_errors():
        settings = load_settings(data_dir)
        url = settings.migration_database_url
        require_schema(url)
        login = asyncio.run(login_to_append(settings, url))
        begun, size = asyncio.run(authenticated_since(login))
        if begun is None:
            begun = _begin(settings, login, size, since, changes, yes=yes)
    done = {"authenticated_since": begun}
    text = f"authenticated from position {begun} on"
    click.echo(msgspec.json.encode(done) if as_json else text)


def _begin(
    settings: Settings, login: Login, size: int, since: str | None, changes: int, *, yes: bool
) -> int:
    kept = _verified(settings, since)
    _show(asyncio.run(to_accept(login, size, changes)))
    if not yes and not click.confirm("Accept them?", err=True):
        say("not accepted: look at each with secrets-broker events, then revoke it or store again")
        raise SystemExit(1)
    return asyncio.run(authenticate(login, size, operator(), kept))


def _verified(settings: Settings, since: str | None) -> SignedCheckpoint | None:
    """Verify the ledger; the checkpoint that it was held to, None where there is none."""
    known = known_keys((), settings)
    file = settings.checkpoint_file
    paths = [since] if since else []
    paths += [str(file)] if file is not None and file.is_file() else []
    if not paths:
        say("no checkpoint that was kept elsewhere: only the ledger itself vouches for its past")
    notes = [kept_checkpoint(path, known, "--since") for path in paths]
    job = Job(settings, VerifyPlan(known, tuple(notes)), settings.erasures)
    job.run()
    if not job.findings.ok:
        say(job.text())
        raise SystemExit(1)
    return open_checkpoint(read(paths[0]), verifier_keys(settings)) if paths else None


def _show(accept: ToAccept) -> None:
    say(_WARNING)
    for granted in accept.grants:
        say(f"  grant   {granted.position:>9}  {granted.name!a}: {_rights(granted)}")
    for change in accept.changes:
        by = f"by {change.actor!a} ({change.authn!a}) from {change.ip or 'this machine'}"
        say(
            f"  change  {change.position:>9}  {change.at}  {change.type}  "
            f"{change.host!a} {change.purpose!a}  {by}"
        )


def _rights(granted: Granted) -> str:
    rules: list[dict[str, Any]] = granted.rights.details["rules"] if granted.rights else []
    return ", ".join(ascii(rule) for rule in rules) or "nothing"

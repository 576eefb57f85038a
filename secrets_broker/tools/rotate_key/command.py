"""`secrets-broker rotate-key`: wrap every data key under another KEK, at noon."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec
import psycopg

from secrets_broker import logging_setup, wiring
from secrets_broker.ledger.access.shared_key import require_fit
from secrets_broker.ledger.database.ledger_session import TOOL_SESSION
from secrets_broker.ledger.encryption import keks
from secrets_broker.ledger.encryption.keks import KekUse, NewKek
from secrets_broker.ledger.encryption.keyring import ACTIVE, RETIRING, Kek, Keyring, derive_key
from secrets_broker.ledger.encryption.kms import Provider
from secrets_broker.ledger.errors import OutcomeUnknownError, RotationRefusedError
from secrets_broker.ledger.operations.rotation import Progress, RotationReport, rotate
from secrets_broker.ledger.store import Store
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.session import with_grant
from secrets_broker.settings import Settings, text_of_file
from secrets_broker.tools.rotate_key.data_keys import make_data_keys
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    json_option,
    load_settings,
    operator,
    require_schema,
    say,
)
from secrets_broker.tools.shared.progress import progress_bar
from secrets_broker.tools.shared.status import NotAsked

_NEXT = """\
Next, wherever the service runs (this command changes no settings):
  1. set {setting} to the new one, and take the old one out of {previous};
  2. restart, one service after another;
  3. destroy the old key, once no backup is needed that only it opens."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the options and the settings say to rotate from and to."""

    held: Keyring
    asked: list[Provider]
    new: NewKek | Provider
    named_old: Kek | None = field(default=None)
    """The KEK of --old-key, which has to be this ledger's."""


def _key_options(command: Any) -> Any:
    for which, meaning in (("new", "SECRETS_KMS_KEY"), ("old", "SECRETS_KMS_KEY_PREVIOUS")):
        command = click.option(
            f"--{which}-kms", metavar="URL", help=f"The {which} KMS, in the form of SECRETS_KMS."
        )(command)
        command = click.option(
            f"--{which}-key-file",
            type=click.File("rb"),
            help=f"A file with the {which} key; - is standard input.",
        )(command)
        command = click.option(
            f"--{which}-key",
            metavar="KEY",
            help=f"The {which} key; other users of this machine can see it. [default: {meaning}]",
        )(command)
    return command


@click.command("rotate-key")
@data_dir_option
@json_option
@_key_options
@click.option("--check", is_flag=True, help="Only report how many data keys each KEK wraps.")
@click.option(
    "--data-keys",
    is_flag=True,
    help="Make new data keys instead; encrypt all under them.",
)
@click.option("--host", metavar="PATTERN", help="With --data-keys: only these; * is any run.")
@click.option("--purpose", metavar="PATTERN", help="With --data-keys: only these; * is any run.")
@click.option(
    "--since",
    type=click.IntRange(0),
    metavar="POSITION",
    help="With --data-keys: finish a run that was killed; it printed the POSITION to give.",
)
@click.option(
    "--settle",
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Time for running services to fetch a new KEK from a KMS.",
)
def rotate_key(
    data_dir: Path | None,
    as_json: bool,
    check: bool,
    data_keys: bool,
    host: str | None,
    purpose: str | None,
    since: int | None,
    settle: float,
    **given: Any,
) -> None:
    """Wrap every data key under a new key, while the services serve.

    Give the services both keys first: the new one in SECRETS_KMS_KEY, the old one in
    SECRETS_KMS_KEY_PREVIOUS, and restart them. With the same settings this command needs no
    options. No event and no credential is touched. Where it was killed, run it
    again: it continues.

    --data-keys is for when data keys themselves may be known to others: each live credential
    gets a new one. History stays under its old ones: what they opened, they still open.

    Exits with 1 where a data key could not be re-wrapped; --check, where a rotation is not over.
    """
    logging_setup.configure(readable=True)
    if not data_keys and (host or purpose or since is not None):
        raise click.UsageError("--host, --purpose and --since go with --data-keys")
    if data_keys and (check or any(given.values())):
        raise click.UsageError("--data-keys goes with no key and with no --check")
    with clear_errors():
        settings = load_settings(data_dir)
        require_schema(settings.migration_database_url)
        if data_keys:
            make_data_keys(settings, host or "*", purpose or "*", since, as_json=as_json)
            return
        if check:
            _report_uses(asyncio.run(_uses(settings.migration_database_url)), as_json)
            return
        choice = _choose(settings, given)
        report = _rotate(settings, choice, settle)
    click.echo(msgspec.json.encode(report) if as_json else _text(report, choice))
    if report.unwrappable:
        raise SystemExit(1)


def _choose(settings: Settings, given: dict[str, Any]) -> Choice:
    old_key = _key(given["old_key"], given["old_key_file"], "--old-key")
    new_key = _key(given["new_key"], given["new_key_file"], "--new-key")
    if old_key is not None:
        held, asked = Keyring.from_kms_keys(old_key, *settings.previous_kms_keys), []
    elif given["old_kms"]:
        held = Keyring.from_kms_keys(*settings.previous_kms_keys)
        asked = [wiring.open_kms(settings, given["old_kms"])]
    else:
        held, asked = wiring.keyring(settings), wiring.providers(settings)
    named = held.first if old_key is not None else None
    return Choice(held, asked, _new(settings, new_key, given["new_kms"]), named)


def _key(text: str | None, file: BinaryIO | None, option: str) -> str | None:
    if text is not None and file is not None:
        raise click.UsageError(f"{option} and {option}-file are one too many")
    if file is not None:
        text = _text_of(file, option)
    if text == "":
        raise click.UsageError(f"{option} is empty")
    return text


def _text_of(file: BinaryIO, option: str) -> str:
    try:
        return text_of_file(file.read())
    except UnicodeDecodeError:
        raise click.UsageError(f"{option}-file: it is not UTF-8") from None


def _new(settings: Settings, key: str | None, url: str | None) -> NewKek | Provider:
    if key is not None and url:
        raise click.UsageError("--new-key and --new-kms are one too many")
    if key is None and (url or settings.kms_url):
        return wiring.open_kms(settings, url or settings.kms_url or "")
    fit = settings.kms_key if key is None else require_fit("SECRETS_KMS_KEY", key)
    return NewKek(Kek.from_bytes(derive_key(fit)))


def _rotate(settings: Settings, choice: Choice, settle: float) -> RotationReport:
    try:
        with progress_bar() as tell:
            return asyncio.run(
                _run(settings, choice, settle, lambda done, total: tell("data keys", done, total))
            )
    except (psycopg.Error, OutcomeUnknownError) as error:
        raise NotAsked(f"{with_grant(error)}. Nothing is lost: run the same again") from None


async def _run(
    settings: Settings, choice: Choice, settle: float, progress: Progress
) -> RotationReport:
    url, known = settings.migration_database_url, wiring.continuity(settings)
    store = await Store.connect(url, HostCredentials(), choice.held, TOOL_SESSION, continuity=known)
    try:
        stored = await keks.stored_keks(store.connection)
        _refuse(choice, await keks.uses(store.connection))
        await keks.fetch(stored, choice.held, choice.asked)
        return await rotate(
            store, choice.held, choice.new, operator(), progress=progress, settle_seconds=settle
        )
    finally:
        await store.close()
        wiring.close(choice.asked)


def _refuse(choice: Choice, known: tuple[KekUse, ...]) -> None:
    """Raise RotationRefusedError where the keys cannot be meant; nothing was touched."""
    old, new = choice.named_old, choice.new
    if old and isinstance(new, NewKek) and old.id == new.kek.id:
        raise RotationRefusedError("the new key is the old one")
    if old and old.id not in {use.id for use in known}:
        raise RotationRefusedError(
            f"the old key is not this ledger's: it would be KEK {old.id}, and the ledger has "
            + ", ".join(f"{use.id} ({use.state})" for use in known)
        )
    busy = [use for use in known if use.is_needed or use.state == ACTIVE]
    only = busy[0].id if len(busy) == 1 else None
    alone = len(list(choice.held)) == 1 and not choice.asked
    if isinstance(new, NewKek) and new.kek.id == only and alone:
        raise RotationRefusedError(
            "the new key is the one in use: put a fresh one into SECRETS_KMS_KEY (secrets-broker "
            "keygen prints one), and the one in use into SECRETS_KMS_KEY_PREVIOUS"
        )


async def _uses(url: str) -> tuple[KekUse, ...]:
    store = await Store.connect(url, HostCredentials(), Keyring(()), TOOL_SESSION)
    try:
        return await keks.uses(store.connection)
    finally:
        await store.close()


def _report_uses(found: tuple[KekUse, ...], as_json: bool) -> None:
    click.echo(msgspec.json.encode(found) if as_json else _table(found))
    if any(use.state == RETIRING for use in found):
        say("A rotation is not over: run rotate-key again, with both keys")
        raise SystemExit(1)


def _table(found: tuple[KekUse, ...]) -> str:
    rows = [("KEK", "state", "data keys", "provider")]
    rows += [(use.id, use.state, str(use.data_keys), use.provider) for use in found]
    return "\n".join(f"{kek:<32}  {state:<8}  {keys_:>9}  {who}" for kek, state, keys_, who in rows)


def _text(report: RotationReport, choice: Choice) -> str:
    lines = [
        f"not re-wrapped: {u.host!r} {u.purpose!r} (data key {u.data_key}): its wrap was changed"
        for u in report.unwrappable
    ]
    lines += [_table(report.keks), f"{report.rewrapped} data keys re-wrapped under {report.kek}"]
    if report.unwrappable:
        lines.append("The old key is needed until these are stored again, or erased")
    else:
        kms = not isinstance(choice.new, NewKek)
        names = (
            ("SECRETS_KMS", "SECRETS_KMS_PREVIOUS")
            if kms
            else ("SECRETS_KMS_KEY", "SECRETS_KMS_KEY_PREVIOUS")
        )
        lines.append(_NEXT.format(setting=names[0], previous=names[1]))
    return "\n".join(lines)

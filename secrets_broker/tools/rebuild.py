"""`secrets-broker rebuild`: make host_credentials again from the ledger, or only compare."""

import asyncio
from dataclasses import asdict
from pathlib import Path

import click
import msgspec

from secrets_broker import logging_setup
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.projections import rebuild as projection
from secrets_broker.projections.rebuild import Comparison
from secrets_broker.settings import Settings
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    json_option,
    load_settings,
    operator,
    require_schema,
)
from secrets_broker.tools.shared.progress import progress_bar
from secrets_broker.wiring import loaded_keyring, login_to_append


@click.command()
@data_dir_option
@json_option
@click.option("--check", is_flag=True, help="Only compare; exit 1 where anything differs.")
def rebuild(data_dir: Path | None, as_json: bool, check: bool) -> None:
    """Rebuild secrets.host_credentials from the ledger while the service runs.

    Differences are named by host, purpose and column; values are never shown.
    """
    logging_setup.configure(readable=True)
    with clear_errors():
        found = _run(load_settings(data_dir), check)
    click.echo(msgspec.json.encode(asdict(found)) if as_json else _text(found, check))
    if found.unreadable or (check and found.differences):
        raise SystemExit(1)


def _run(settings: Settings, check: bool) -> Comparison:
    url = settings.migration_database_url
    require_schema(url)
    with progress_bar() as tell:
        keyring = asyncio.run(_keyring(settings, url, check))
        return asyncio.run(
            projection.rebuild(
                url,
                keyring,
                operator(),
                check_only=check,
                progress=lambda done: tell("credentials replayed", done, None),
            )
        )


async def _keyring(settings: Settings, url: str, check: bool) -> Keyring:
    if check:
        return await loaded_keyring(settings, url)
    return (await login_to_append(settings, url)).keyring


def _text(found: Comparison, check: bool) -> str:
    # Names are others' text: repr, so that none can steer a terminal.
    lines = [
        f"{d.kind}: {d.host!r} {d.purpose!r} {', '.join(d.columns)}".rstrip()
        for d in found.differences
    ]
    lines += [
        f"unreadable: {u.host!r} {u.purpose!r} (event {u.position}): {u.why}"
        for u in found.unreadable
    ]
    done = "found" if check else "found and replaced"
    summary = (
        f"{found.size} events, {found.rows} live credentials, "
        f"{len(found.differences)} differences {done}, {len(found.unreadable)} unreadable"
    )
    return "\n".join([*lines, summary])

"""`secrets-broker erase`: destroy credentials for good, list what was, and destroy it again."""

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
import msgspec

from secrets_broker import logging_setup
from secrets_broker.ledger.encoding import label_problem
from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.events import MAX_REASON
from secrets_broker.ledger.operations import erasure
from secrets_broker.ledger.operations.erasure import Erasable, Erased
from secrets_broker.settings import Settings
from secrets_broker.tools.erase import erasure_list
from secrets_broker.tools.erase.apply_again import apply_again
from secrets_broker.tools.erase.report import line, report, show, totals
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
from secrets_broker.tools.shared.status import NotAsked, NotSo, confirm
from secrets_broker.wiring import login_to_append

_ASKED: Final = 50  # more names than that pass out of sight; --dry-run shows all


@click.command()
@click.argument("host", required=False)
@click.argument("purpose", required=False)
@data_dir_option
@json_option
@click.option("--reason", help="Why, for the record; at most 500 characters.")
@click.option("--exact", is_flag=True, help="Take * in HOST and PURPOSE for itself.")
@click.option("--dry-run", is_flag=True, help="Only show what would be erased.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--list", "as_list", is_flag=True, help="Write what was ever erased, as JSON lines.")
@click.option(
    "--again",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Erase what such a list names, after a restore.",
)
def erase(
    *,
    host: str | None,
    purpose: str | None,
    data_dir: Path | None,
    as_json: bool,
    reason: str | None,
    exact: bool,
    dry_run: bool,
    yes: bool,
    as_list: bool,
    again: Path | None,
) -> None:
    """Destroy the keys and the contents of HOST and PURPOSE, and of all that they ever were.

    Both may be patterns: * stands for any run of characters. What was done with a credential,
    and by whom, stays in the ledger; what it held can no longer be read by anybody.
    """
    logging_setup.configure(readable=True)
    _check_usage(host, purpose, reason, dry_run, as_list, again)
    with clear_errors():
        settings = load_settings(data_dir)
        require_schema(settings.migration_database_url)
        if as_list:
            _list(settings)
        elif again is not None:
            _again(settings, again, reason, dry_run=dry_run, as_json=as_json)
        else:
            if not dry_run:
                _complete(settings)
            found = _find(settings, host or "", purpose or "", exact)
            if dry_run:
                show(found, as_json)
                return
            _confirm(found, yes)
            _erase(settings, found, reason, as_json)


def _check_usage(
    host: str | None,
    purpose: str | None,
    reason: str | None,
    dry_run: bool,
    as_list: bool,
    again: Path | None,
) -> None:
    named = host is not None or purpose is not None
    if named == (as_list or again is not None) or (as_list and again is not None):
        raise click.UsageError("give HOST and PURPOSE, or --list, or --again FILE")
    if named and purpose is None:
        raise click.UsageError("give a PURPOSE too; '*' means every one")
    if named and not dry_run and not (reason or "").strip():
        raise click.UsageError("give a --reason: it stays in the ledger, where the secret does not")
    if reason is not None and (problem := label_problem(reason, MAX_REASON)):
        raise click.UsageError(f"--reason {problem}")


def _find(settings: Settings, host: str, purpose: str, exact: bool) -> list[Erasable]:
    url = settings.migration_database_url
    found = asyncio.run(erasure.find(url, host, purpose, exact=exact))
    if not found:
        raise NotSo(
            f"nothing to erase: no credential of {host!r} {purpose!r} has a key or a content"
        )
    return found


def _complete(settings: Settings) -> None:
    """Add what a run that died did not come to add to the settings' list."""
    if settings.erasures is not None:
        recorded = asyncio.run(erasure.recorded(settings.migration_database_url))
        if missing := erasure_list.complete(settings.erasures, recorded):
            say(f"{settings.erasures}: {missing} lines were missing and are there now")


def _confirm(found: Sequence[Erasable], yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise NotAsked(
            "this destroys for good, and there is no terminal to ask on: look with --dry-run, "
            "then say --yes"
        )
    for name in found[:_ASKED]:
        say(line(name))
    if len(found) > _ASKED:
        say(f"… and {len(found) - _ASKED} more names; --dry-run shows all")
    confirm(f"Destroy {totals(found)} for good?")


def _erase(
    settings: Settings, found: Sequence[Erasable], reason: str | None, as_json: bool
) -> None:
    done, gone = asyncio.run(_each(settings, found, reason))
    keks = asyncio.run(erasure.keks_so_far(settings.migration_database_url))
    if asyncio.run(erasure.has_legacy_table(settings.migration_database_url)):
        say("secrets.legacy_host_credentials still holds what was imported: drop it")
    report(done, gone, keks, as_json)


async def _each(
    settings: Settings, found: Sequence[Erasable], reason: str | None
) -> tuple[list[Erased], int]:
    names = [(f.host, f.purpose) for f in found]
    url, context = settings.migration_database_url, operator(reason)
    login = await login_to_append(settings, url)
    done, gone = list[Erased](), 0
    with progress_bar() as tell, _how_far(done, len(names)):
        async for erased in erasure.erase(login, context, names):
            if erased is None:
                gone += 1
                continue
            done.append(erased)
            # Died before this: committed, but not in the list; the next run adds it.
            if settings.erasures is not None:
                erasure_list.append(settings.erasures, erased.erasures)
            tell("names erased", len(done), len(names))
    return done, gone


@contextmanager
def _how_far(done: Sequence[Erased], total: int) -> Iterator[None]:
    try:
        yield
    except (LedgerError, erasure_list.ErasureListError) as error:
        raise NotAsked(
            f"{error}. {len(done)} of {total} names were erased before; run this again for the rest"
        ) from None


def _again(
    settings: Settings, path: Path, reason: str | None, *, dry_run: bool, as_json: bool
) -> None:
    if dry_run:
        named = {erased.data_key for erased in erasure_list.read(path)}
        there = asyncio.run(erasure.still_there(settings.migration_database_url, named))
        click.echo(
            msgspec.json.encode({"dry_run": True, "would_erase": there})
            if as_json
            else f"would be erased: {len(there)} data keys of the {len(named)} that are named"
        )
        return
    done = apply_again(settings, path, reason)
    keks = asyncio.run(erasure.keks_so_far(settings.migration_database_url))
    if done or as_json:
        report(done, 0, keks, as_json)
    else:
        click.echo("nothing that the list names is in this database")


def _list(settings: Settings) -> None:
    recorded = asyncio.run(erasure.recorded(settings.migration_database_url))
    if settings.erasures is None or not _is_output(settings.erasures):
        click.echo(erasure_list.lines(recorded), nl=False)
    if settings.erasures is not None and settings.erasures.exists():
        erasure_list.complete(settings.erasures, recorded)


def _is_output(path: Path) -> bool:
    # Written by both ways at once, the list would be torn.
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False

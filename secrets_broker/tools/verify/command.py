"""`secrets-broker verify`: the command."""

from pathlib import Path

import click
import msgspec

from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.transparency_log.note import VerifierKey
from secrets_broker.migrations.errors import MigrationError
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    json_option,
    load_settings,
    say,
)
from secrets_broker.tools.shared.remote import ClientTls, Remote, url_options
from secrets_broker.tools.shared.status import NotAsked
from secrets_broker.tools.verify.checks.checkpoints import KeptCheckpoint
from secrets_broker.tools.verify.inputs import kept_checkpoint, known_keys
from secrets_broker.tools.verify.receipts import verify_receipt
from secrets_broker.tools.verify.run_checks import VerifyPlan
from secrets_broker.tools.verify.verification import Job, LedgerLocation


@click.command()
@data_dir_option
@json_option
@click.option("--since", metavar="FILE", help="A checkpoint kept elsewhere (- for stdin).")
@click.option(
    "--export",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Check what `export` made, instead of the database.",
)
@click.option(
    "--partial", is_flag=True, help="With --export: what is not there is merely not checked."
)
@url_options
@click.option("--receipt", metavar="FILE", help="Check one event's receipt, and no ledger.")
@click.option(
    "--verifier-key",
    "verifier_keys",
    metavar="KEY|@FILE",
    multiple=True,
    help="A key that checkpoints are verified with; may be given several times.",
)
@click.option(
    "--erasures",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A list of erasures kept elsewhere [SECRETS_ERASURES].",
)
def verify(
    *,
    data_dir: Path | None,
    as_json: bool,
    since: str | None,
    folder: Path | None,
    partial: bool,
    url: str | None,
    tls: ClientTls,
    receipt: str | None,
    verifier_keys: tuple[str, ...],
    erasures: Path | None,
) -> None:
    """Check a whole ledger, from its first event to its last, and say what was checked.

    The ledger is that of DATABASE_URL, an export, or another broker. Keys come from --verifier-key
    and LEDGER_VERIFIER_KEY. Exit 0 where nothing is wrong, 1 where something is, 2 where the ledger
    could not be asked.
    """
    if sum(given is not None for given in (folder, url, receipt)) > 1:
        raise click.UsageError("one of --export, --url and --receipt, or none for the database")
    if partial and folder is None:
        raise click.UsageError("--partial goes with --export")
    with clear_errors():
        settings = load_settings(data_dir)
        keys = known_keys(verifier_keys, settings)
        if receipt is not None:
            raise SystemExit(0 if verify_receipt(receipt, keys, as_json=as_json) else 1)
        place = LedgerLocation(folder, Remote.of(settings, url, tls) if url else None, partial)
        if place.is_database:  # the settings' own ledger, so what they keep of it counts too
            erasures = erasures or settings.erasures
            if settings.kms_key_is_set:
                _ = settings.kms_key  # where it is unfit, the settings are at fault, not the ledger
        kept = _kept(since, keys, settings.checkpoint_file if place.is_database else None)
        job = Job(settings, VerifyPlan(keys, kept), erasures, place)
        try:
            report = job.run()
        except (LedgerError, MigrationError) as error:
            raise NotAsked(str(error)) from None
    click.echo(msgspec.json.encode(report) if as_json else job.text())
    if not job.findings.ok:
        raise SystemExit(1)


def _kept(
    since: str | None, keys: tuple[VerifierKey, ...], file: Path | None
) -> tuple[KeptCheckpoint, ...]:
    kept = [kept_checkpoint(since, keys, "--since")] if since else []
    if file is not None:
        if file.is_file():
            kept.append(kept_checkpoint(str(file), keys, "LEDGER_CHECKPOINT_FILE"))
        else:
            say(f"LEDGER_CHECKPOINT_FILE: {file} is not there, so nothing is compared with it")
    return tuple(kept)

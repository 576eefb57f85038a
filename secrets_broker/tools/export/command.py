"""`secrets-broker export DIR`: the ledger as a folder of files."""

import asyncio
from dataclasses import asdict
from pathlib import Path

import click
import msgspec

from secrets_broker.optional_libraries import how_to_install
from secrets_broker.settings import Settings
from secrets_broker.tools.erase import erasure_list
from secrets_broker.tools.export import run
from secrets_broker.tools.export.folder import ExportError
from secrets_broker.tools.export.mirror import mirror
from secrets_broker.tools.export.run import Exported, ExportPlan
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    json_option,
    load_settings,
    say,
)
from secrets_broker.tools.shared.progress import progress_bar
from secrets_broker.tools.shared.remote import ClientTls, Remote, url_options
from secrets_broker.wiring import verifier_keys


@click.command()
@data_dir_option
@json_option
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--with-bodies",
    is_flag=True,
    help="Also the ciphertexts; the folder is then readable by its owner alone.",
)
@url_options
@click.option("--no-parquet", is_flag=True, help="No tables, only the log; needs no pyarrow.")
def export(
    *,
    data_dir: Path | None,
    as_json: bool,
    directory: Path,
    with_bodies: bool,
    url: str | None,
    tls: ClientTls,
    no_parquet: bool,
) -> None:
    """Export the ledger to DIRECTORY, up to the published checkpoint.

    A static log of tiles and entries (C2SP tlog-tiles) with its checkpoints, and the events and the
    access log as Parquet. It holds no secret, and no ciphertext unless asked. A folder that is an
    export of this ledger already gets what is new; one that was left unfinished is finished. The
    login of an auditor is enough.

    With --url the same is made of what a service publishes, with AUDITOR_KEY: everything but the
    ciphertexts. All entries are fetched each time, and compared with what the folder has.
    """
    with clear_errors():
        if not no_parquet:
            _require_pyarrow()
        settings = load_settings(data_dir)
        remote = Remote.of(settings, url, tls) if url else None
        done = _run(settings, directory, with_bodies, not no_parquet, remote)
    click.echo(msgspec.json.encode(asdict(done)) if as_json else _text(done))


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401, PLC0415 - an extra, and slow to load
    except ImportError:
        raise ExportError(
            f"Parquet needs pyarrow: {how_to_install('parquet')}, "
            "or leave the tables out with --no-parquet"
        ) from None


def _run(
    settings: Settings, directory: Path, bodies: bool, parquet: bool, remote: Remote | None
) -> Exported:
    keys = verifier_keys(settings)
    if not keys:
        say(
            "LEDGER_VERIFIER_KEY is not set: the checkpoint's signature is not verified, and "
            "the folder gets no verifier.key"
        )
    listed = settings.erasures
    wanted = ExportPlan(
        path=directory,
        parquet=parquet,
        bodies=bodies,
        keys=keys,
        erasures=erasure_list.lines(erasure_list.read(listed)) if listed else None,
    )
    with progress_bar() as tell:

        def progress(done: int, total: int) -> None:
            tell("events exported", done, total)

        if remote is not None:
            return mirror(remote, wanted, progress)
        return asyncio.run(run.export(settings.database_url, wanted, progress))


def _text(done: Exported) -> str:
    since = "" if done.before is None else f", of which {done.before} were there"
    beside = [name for name, there in (("bodies", done.bodies), ("Parquet", done.parquet)) if there]
    more = f" with {' and '.join(beside)}" if beside else ""
    return (
        f"{done.directory}: {done.size} events of {done.origin}{since}{more}; "
        f"{done.files} files written"
    )

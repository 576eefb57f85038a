"""`secrets-broker witness serve` and `keygen`: a witness of our own, for another machine."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from secrets_broker import logging_setup
from secrets_broker.ledger.transparency_log.note import COSIGNATURE
from secrets_broker.ledger.transparency_log.witness_state import WitnessState
from secrets_broker.settings import DATA_DIR, Settings, SettingsError
from secrets_broker.tools.keygen import check_name, env_lines, fresh_name, signing_key
from secrets_broker.tools.serve import IN_THE_CLEAR, become, server_command
from secrets_broker.tools.shared.command_line import (
    address_options,
    clear_errors,
    data_dir_option,
    load_settings,
    say,
)
from secrets_broker.wiring import witness_key, witness_logs

PORT: Final = 3004
_APPLICATION: Final = "secrets_broker.http.witness_app:from_settings()"


@click.command("serve")
@data_dir_option
@address_options(PORT)
@click.option(
    "--log",
    "log_keys",
    multiple=True,
    help="Verifier key of a log to cosign; may be repeated [WITNESS_LOGS].",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for what was cosigned [WITNESS_STATE, or ./witness].",
)
@click.option(
    "--key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The witness's signing key [WITNESS_KEY_FILE, or witness.key in the state, made there].",
)
def serve_command(
    data_dir: Path | None,
    host: str,
    port: int,
    log_keys: Sequence[str],
    state: Path | None,
    key_file: Path | None,
) -> None:
    """Be a witness: cosign the checkpoints of logs that only grow.

    It needs no database and no setting of the ledger. Run it on another machine than the ledger,
    under another person's hands. Never put an older copy of its state back: begin again with a
    new key instead.
    """
    given = {
        Settings.witness_logs.name: " ".join(log_keys),
        Settings.witness_state.name: str(state or ""),
        Settings.own_witness_key_file.name: str(key_file or ""),
    }
    with clear_errors():
        settings = _with(load_settings(data_dir), given)
        logging_setup.configure(readable=settings.readable_logs)
        _prepare(settings)
    # What was found out is handed on, so that it is not looked for in another order.
    os.environ.pop(DATA_DIR, None)
    os.environ.update(_environment(settings))
    become(server_command(host, port, 1, *IN_THE_CLEAR, _APPLICATION))


@click.command("keygen")
@data_dir_option
@click.argument("name", required=False)
def keygen_command(data_dir: object, name: str | None) -> None:
    """Print a witness's signing key and verifier key; nothing is stored.

    NAME is the witness's own, such as witness.example/w1: a URL without a scheme, which need not
    lead anywhere.
    """
    if name is not None:
        check_name("NAME", name)
    key = signing_key(name or fresh_name(), COSIGNATURE)
    lines = {"WITNESS_KEY": key.private_text(), "WITNESS_VERIFIER_KEY": str(key.verifier)}
    click.echo(env_lines(lines), nl=False)


def _with(settings: Settings, given: dict[str, str]) -> Settings:
    known = {name: value for name, value in given.items() if value}
    return Settings({**settings.values, **known}, settings.data_dir)


def _environment(settings: Settings) -> dict[str, str]:
    return {
        Settings.witness_logs.name: " ".join(settings.witness_logs),
        Settings.witness_state.name: str(settings.witness_state.absolute()),
        Settings.own_witness_key_file.name: str(settings.witness_key_file.absolute()),
        Settings.readable_logs.name: "readable" if settings.readable_logs else "",
    }


def _prepare(settings: Settings) -> None:
    """Find what is wrong now, and make what a first start has to make."""
    if not witness_logs(settings):
        raise SettingsError("WITNESS_LOGS not set: name the logs to cosign, or give --log")
    state = WitnessState(settings.witness_state)
    path = settings.witness_key_file
    own = settings.own_witness_key_file is None
    if own and path.exists() and not state.heads_path.exists():
        raise SettingsError(
            f"{path} is there, and {state.heads_path} is not: what was cosigned is not known any "
            "more. Begin again with another folder, and so with another key"
        )
    state.create()
    if own and not path.exists():
        _make_key(path)
    key = witness_key(settings)
    if path.stat().st_mode & 0o077:
        say(f"warning: {path} can be read by others: chmod 600 {path}")
    say(f"verifier key: {key.verifier}")


def _make_key(path: Path) -> None:
    key = signing_key(fresh_name(), COSIGNATURE)
    # After the heads: a folder that has the key has them too. Died half-way: the file is cut
    # short, and the next start says that it cannot be read.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{key.private_text()}\n")
        file.flush()
        os.fsync(file.fileno())
    say(f"made the signing key {path}")

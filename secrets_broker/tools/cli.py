"""`secrets-broker`: the command line. One module a command; this one only lists them."""

import click

from secrets_broker import logging_setup
from secrets_broker.tools.access import access
from secrets_broker.tools.authenticate import authenticate_command
from secrets_broker.tools.dev import dev
from secrets_broker.tools.disown import disown_command
from secrets_broker.tools.erase.command import erase
from secrets_broker.tools.export.command import export
from secrets_broker.tools.health import health
from secrets_broker.tools.import_legacy import import_legacy_command
from secrets_broker.tools.keygen import keygen
from secrets_broker.tools.migrate import migrate
from secrets_broker.tools.proof import proof
from secrets_broker.tools.queries import QUESTIONS
from secrets_broker.tools.queries.due import due
from secrets_broker.tools.rebuild import rebuild
from secrets_broker.tools.replay.command import replay
from secrets_broker.tools.restored import restored
from secrets_broker.tools.rotate_key.command import rotate_key
from secrets_broker.tools.serve import serve
from secrets_broker.tools.shared.command_line import group_data_dir_option
from secrets_broker.tools.shared.status import Commands
from secrets_broker.tools.verify.command import verify
from secrets_broker.tools.watch import watch
from secrets_broker.tools.witness.command import witness


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="secrets-broker")
@group_data_dir_option
def main() -> None:
    """An event-sourced, audit-first credential ledger.

    Settings come from the environment, or from a .env file in the working folder. The exit status
    is 0 where what was asked is so, 1 where it is not so, and 2 where it could not be asked.
    """
    # Unless told otherwise, a logger writes where a command's answer goes, between its lines.
    logging_setup.configure(readable=True)


COMMANDS = (
    *(dev, serve, keygen, migrate, rebuild, rotate_key, erase, due, import_legacy_command),
    *(authenticate_command, disown_command),
    *(*QUESTIONS, access, export, health, proof, replay, restored, verify, watch, witness),
)
for command in COMMANDS:
    main.add_command(command)

"""`secrets-broker`: the command line. It lists the commands, and imports only the one that runs."""

from importlib import import_module
from typing import Final

import click

from secrets_broker import logging_setup
from secrets_broker.tools.shared.command_line import group_data_dir_option
from secrets_broker.tools.shared.status import Commands

# Name: where it is, below secrets_broker.tools, and the first sentence of its help.
COMMANDS: Final = {
    "access": (
        "access:access",
        "Say who may do what: keys for services, with rights, that can be taken back.",
    ),
    "authenticate": (
        "authenticate:authenticate_command",
        "Demand MACs of a ledger from before there were any.",
    ),
    "dev": (
        "dev:dev",
        "Serve with an embedded PostgreSQL and fresh keys, all in one folder.",
    ),
    "disown": (
        "disown:disown_command",
        "Leave out events that were not made with the ledger's keys.",
    ),
    "due": (
        "queries.due:due",
        "List the live credentials that want attention.",
    ),
    "erase": (
        "erase.command:erase",
        "Destroy the keys and the contents of HOST and PURPOSE, and of all that they ever were.",
    ),
    "events": (
        "queries.event_list:events",
        "List the ledger's events, in the order of the record.",
    ),
    "export": (
        "export.command:export",
        "Export the ledger to DIRECTORY, up to the published checkpoint.",
    ),
    "exposure": (
        "queries.exposure:exposure",
        "List who received a version of HOST's PURPOSE, by the record of successful lookups.",
    ),
    "health": (
        "health:health",
        "Ask a service whether it is ready: the ledger can be written, the KEK is at hand.",
    ),
    "history": (
        "queries.history:history",
        "List each version that HOST's PURPOSE ever had, oldest first.",
    ),
    "import-legacy": (
        "import_legacy.command:import_legacy_command",
        "Take over the credentials and the access log of an earlier installation.",
    ),
    "keygen": (
        "keygen:keygen",
        "Print fresh settings lines for a .env file; nothing is stored.",
    ),
    "migrate": (
        "migrate:migrate",
        "Bring the database's schema up to date.",
    ),
    "proof": (
        "proof:proof",
        "Print the receipt of the event at POSITION: a C2SP tlog-proof.",
    ),
    "rebuild": (
        "rebuild:rebuild",
        "Rebuild secrets.host_credentials from the ledger while the service runs.",
    ),
    "replay": (
        "replay.command:replay",
        "Show the live credentials as they were, or what changed between two points.",
    ),
    "restored": (
        "restored:restored",
        "Continue after a restore that lost events, under a new origin.",
    ),
    "rotate-key": (
        "rotate_key.command:rotate_key",
        "Wrap every data key under a new key, while the services serve.",
    ),
    "serve": (
        "serve:serve",
        "Serve the internal API with gunicorn, with settings from the environment.",
    ),
    "unused": (
        "queries.unused:unused",
        "List the live credentials that nobody has read since a time, or ever.",
    ),
    "verify": (
        "verify.command:verify",
        "Check a whole ledger, from its first event to its last, and say what was checked.",
    ),
    "watch": (
        "watch.command:watch",
        "Follow the ledger, and tell of what somebody should look at.",
    ),
    "witness": (
        "witness.command:witness",
        "Submit the published checkpoint to witnesses, and keep what they sign.",
    ),
}


def load(name: str) -> click.Command:
    """Import a command of COMMANDS; raises KeyError for any other name."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    command: click.Command = getattr(import_module(f"secrets_broker.tools.{module}"), attribute)
    return command


class _Listed(Commands):
    """Has a stand-in for each command, enough for the help, and imports the one that runs."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself, or None where there is none of that name."""
        return load(cmd_name) if cmd_name in COMMANDS else super().get_command(ctx, cmd_name)


@click.group(
    cls=_Listed,
    commands=[click.Command(name, short_help=text) for name, (_, text) in COMMANDS.items()],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="secrets-broker")
@group_data_dir_option
def main() -> None:
    """An event-sourced, audit-first credential ledger.

    Settings come from the environment, or from a .env file in the working folder. The exit status
    is 0 where what was asked is so, 1 where it is not so, and 2 where it could not be asked.
    """
    # Unless told otherwise, a logger writes where a command's answer goes, between its lines.
    logging_setup.configure(readable=True)

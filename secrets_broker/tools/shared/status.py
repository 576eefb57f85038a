"""Exit statuses: the same words for every command, decided in one place.

| status | says |
|---|---|
| 0 | what was asked is so |
| 1 | it is not so: differences, not ok, not found, refused |
| 2 | it could not be asked, or not to its end: usage, settings, unreachable, no rights |
| 3 | as 1, and worse: the ledger is another one (`watch`), or a witness disagrees (`witness`) |

A script may rely on 1: whatever it was that kept a command from finding out, a bug of ours among
it, ends with 2.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click
import psycopg

from secrets_broker.session import safe_message

SO: Final = 0
NOT_SO: Final = 1
NOT_ASKED: Final = 2
ANOTHER_LEDGER: Final = 3

_WHOLE: Final = 10_000  # in characters: click would cut a sentence to fit its line


class NotSo(click.ClickException):
    """What was asked is not so; the text says what is."""

    exit_code = NOT_SO


class NotAsked(click.ClickException):
    """What was asked could not be found out, or done; the text says why."""

    exit_code = NOT_ASKED


class _ReaderGone(Exception):  # noqa: N818 - the reader has seen enough
    """Nobody reads what is printed any more."""


def confirm(question: str) -> None:
    """Ask on the terminal; raises NotSo where the answer is no, click.Abort where there is none."""
    if not click.confirm(question, err=True):
        raise NotSo("nothing was done")


class Group(click.Group):
    """A group whose help has the whole of each command's first sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them; a sentence that is too long for its line continues on the next."""
        rows = [
            (name, command.get_short_help_str(_WHOLE))
            for name, command in sorted(self.commands.items())
            if not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Commands(Group):
    """The group of all: its commands end with the statuses of this module."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; as a program (standalone), end the process with its status."""
        given = args, prog_name, complete_var
        if not standalone_mode:
            return super().main(*given, standalone_mode=False, **extra)
        try:
            status = super().main(*given, standalone_mode=False, **extra)
        except Exception as error:  # the last place that can say how it ended
            _end(error)
        sys.exit(status or SO)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderGone from None  # or click would end with 1 before anybody is asked


def _end(error: Exception) -> NoReturn:
    if isinstance(error, NotSo):
        error.show()
        sys.exit(NOT_SO)
    if isinstance(error, _ReaderGone):
        _be_quiet()
    else:
        _tell(error)
    sys.exit(NOT_ASKED)


def _tell(error: Exception) -> None:
    if isinstance(error, click.ClickException):
        error.show()
    elif isinstance(error, click.Abort):
        click.echo("Aborted!", err=True)
    elif isinstance(error, psycopg.Error):
        _line(f"the database: {safe_message(error)}")
    elif isinstance(error, OSError) and error.strerror:
        _line(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    else:
        traceback.print_exception(error)  # ours to mend; without the values of variables


def _line(text: str) -> None:
    click.echo(f"Error: {text}", err=True)


def _be_quiet() -> None:
    # The reader has gone: output that still waits would fail once more when Python ends.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)

"""The list of commands: each is found, explains itself, and imports no more than it needs."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from secrets_broker.tools.cli import COMMANDS, load, main
from tests.tools.command_line import run

SERVING = ["falcon", "gunicorn", "uvicorn", "secrets_broker.http"]
APPENDING = ["secrets_broker.secrets_manager", "secrets_broker.ledger.writer"]
EXTRAS = ["boto3", "pyarrow", "pkcs11"]


def parts(name: str) -> Iterator[list[str]]:
    """A command as a line names it, or the commands of a group."""
    command = load(name)
    if not isinstance(command, click.Group):
        yield [name]
        return
    context = click.Context(command)
    for part in command.list_commands(context):
        found = command.get_command(context, part)
        if found is not None and not found.hidden:
            yield [name, part]


def test_help_lists_every_command(tmp_path: Path) -> None:
    """Each is on a line of its own."""
    listed = run("--help", cwd=tmp_path).stdout
    assert [name for name in COMMANDS if f"\n  {name} " not in listed] == []
    assert list(COMMANDS) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says(name: str) -> None:
    """The list has the command's own first sentence, under the command's own name."""
    command = load(name)
    assert (command.name, command.get_short_help_str(10_000)) == (name, COMMANDS[name][1])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    """Each takes --help and --data-dir."""
    listed = CliRunner().invoke(main, [name, "--help"]).stdout
    for words in parts(name):
        assert len(words) == 1 or f"\n  {words[1]} " in listed
        done = CliRunner().invoke(main, [*words, "--help"])
        assert (done.exit_code, done.stderr) == (0, "")
        assert "--data-dir" in done.stdout


def test_an_unknown_command_is_told_of_its_like() -> None:
    """It is a mistake in the line: status 2."""
    done = CliRunner().invoke(main, ["histry"])
    assert done.exit_code == 2
    assert "No such command 'histry'. Did you mean 'history'?" in done.stderr


@pytest.mark.parametrize(
    ("name", "unneeded"),
    [
        ("keygen", [*SERVING, *APPENDING, *EXTRAS]),
        ("health", [*SERVING, *APPENDING, *EXTRAS]),
        ("history", [*SERVING, *APPENDING, *EXTRAS]),
        ("verify", [*SERVING, *APPENDING, *EXTRAS]),
        ("migrate", [*SERVING, *APPENDING, *EXTRAS]),
        ("serve", ["falcon", "gunicorn", *EXTRAS]),
    ],
)
def test_a_command_imports_what_it_needs(name: str, unneeded: list[str]) -> None:
    """A command starts fast, and in an installation without the libraries of the others."""
    script = (
        "import sys; from secrets_broker.tools.cli import load; load(sys.argv[1]);"
        "print(*[name for name in sys.argv[2:] if name in sys.modules])"
    )
    line = [sys.executable, "-c", script, name, *unneeded]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

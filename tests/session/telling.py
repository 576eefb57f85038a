"""Runs several commands in one process, and prints what each of them said, as JSON.

Beside the tests' own process, since a command sets up logging for all of it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from click.testing import CliRunner

from secrets_broker.tools.cli import main
from tests.repository import ROOT

Said = tuple[int, str, str]
"""Exit status, standard output, standard error."""


def told(commands: Sequence[str], folder: Path, env: dict[str, str]) -> dict[str, Said]:
    """What each says, in that folder and with these settings."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.session.telling", *commands],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **env},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return {command: tuple(said[command]) for command in commands}


def _said(command: str) -> Said:
    result = CliRunner().invoke(main, command.split())
    return result.exit_code, result.stdout, result.stderr


if __name__ == "__main__":
    sys.stdout.write(json.dumps({command: _said(command) for command in sys.argv[1:]}))

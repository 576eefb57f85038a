"""A shell beside a fresh `secrets-broker dev`: pages of docs are followed to the letter in it."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

from tests.repository import ROOT
from tests.tools.dev_process import Dev


def blocks(page: str) -> list[str]:
    """The steps of a page below docs/: its blocks that are marked as sh, in order."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


class Shell:
    """Runs the page's blocks, with the command and PostgreSQL's tools on the PATH."""

    def __init__(self, dev: Dev, folder: Path, binaries: Path) -> None:
        self.dev = dev
        self._folder = folder
        tools = folder / "bin"
        tools.mkdir()
        for name, words in (("secrets-broker", "-m secrets_broker"), ("python3", "")):
            command = tools / name
            command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {words} "$@"\n')
            command.chmod(command.stat().st_mode | stat.S_IXUSR)
        # PostgreSQL's own tools, as new as its server: an older pg_dump refuses a newer one.
        self._path = f"{tools}:{binaries}:{os.environ['PATH']}"

    def run(self, block: str) -> str:
        """Run one block; it has to succeed. Returns what it printed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self._folder,
            env={
                "PATH": self._path,
                "D": str(self.dev.data_dir),
                "URL": f"http://127.0.0.1:{self.dev.port}",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        return done.stdout

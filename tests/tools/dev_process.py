"""`secrets-broker dev` as a process, in a folder of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from secrets_broker.tools.postgres.account import Account
from tests.ports import free_port
from tests.repository import ROOT


class Dev:
    """A running `secrets-broker dev`."""

    def __init__(
        self,
        folder: Path,
        bin_dir: Path | None,
        *,
        name: str = "data",
        port: int | None = None,
        below: Sequence[str] = (),
        who: Account | None = None,
        python: str = sys.executable,
        path: str = str(ROOT),
    ) -> None:
        self.folder = folder
        self.data_dir = folder / name
        self.port = port or free_port()
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": path}
        if bin_dir:
            env["SECRETS_BROKER_POSTGRES_BIN"] = str(bin_dir)
        self.log = (folder / "log").open("a")
        command = ["dev", "--data-dir", str(self.data_dir), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*below, python, "-m", "secrets_broker", *command],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            user=who.uid if who else None,
            group=who.gid if who else None,
            extra_groups=[] if who else None,
        )
        assert self.process.stdout
        self.first_line = self.process.stdout.readline().strip()

    def kill(self) -> None:
        """Leave nothing behind, whatever became of the test."""
        try:
            if self.process.poll() is None:
                self.end()
        finally:
            # It is gone, or does not end: then what it started ends with it.
            self.process.kill()
            self.process.communicate()
            self.log.close()

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Signal it, wait for its end, and say how many seconds that took."""
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(20)
        return time.monotonic() - started

    @property
    def settings(self) -> dict[str, str]:
        """What its .env says."""
        lines = (self.data_dir / ".env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def post(self, operation: str, **body: Any) -> dict[str, Any]:
        """Ask the service something."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/internal/secrets/credential-{operation}",
            json.dumps(body).encode(),
            {
                "X-Internal-Key": self.settings["INTERNAL_KEY"],
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            decoded: dict[str, Any] = json.load(answer)
            return decoded


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's own account can pass through, where this runs as root."""
    made = Path(tempfile.mkdtemp(prefix="secrets-broker-dev-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


Start = Callable[..., Dev]


@pytest.fixture
def start(folder: Path, bin_dir: Path | None) -> Iterator[Start]:
    """Starts `dev` in that folder, as often as asked; none of them outlives the test."""
    with ExitStack() as all_of_them:

        def start_one(**options: Any) -> Dev:
            started = Dev(folder, bin_dir, **options)
            all_of_them.callback(started.kill)
            return started

        yield start_one

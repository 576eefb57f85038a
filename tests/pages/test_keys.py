"""docs/keys.md, followed to the letter."""

import threading
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from secrets_broker.tools.postgres.binaries import find_binaries
from tests.pages.shell import Shell, blocks
from tests.tools.dev_process import Dev, Start, folder, start

__all__ = ["folder", "start"]  # fixtures


@contextmanager
def load(dev: Dev) -> Iterator[None]:
    """Look a credential up meanwhile; every answer has to be the right one."""
    answers: list[object] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                found = dev.post("lookup", host="h8.example", purpose="ssh")
                answers.append(found["password"])
            except (urllib.error.URLError, OSError) as error:
                answers.append(repr(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert set(answers) == {"secret-of-8"}


@pytest.fixture
def shell(start: Start, folder: Path, bin_dir: Path | None) -> Shell:
    """A shell in the folder of a fresh `secrets-broker dev`."""
    return Shell(start(), folder, find_binaries(bin_dir))


@pytest.mark.long
def test_the_page(shell: Shell, folder: Path) -> None:
    """Every step does what it says: rotation under load, erasure, a restored dump, rekeying."""
    fill, settings, both, rotate, one, erase, restore, again, data_keys = blocks("keys.md")
    (folder / "settings").write_text(settings)
    shell.run(fill)
    old_key = shell.dev.settings["SECRETS_KMS_KEY"]
    with load(shell.dev):
        shell.run(both)
        assert "1000 data keys re-wrapped" in shell.run(rotate)
    shell.run(one)
    assert old_key not in (shell.dev.data_dir / ".env").read_text()
    assert "destroyed" in shell.run(erase)
    for step in (restore, again, data_keys):
        shell.run(step)
    assert shell.dev.post("lookup", host="h1.example", purpose="ssh")["password"] == "secret-of-1"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        shell.dev.post("lookup", host="h7.example", purpose="ssh")

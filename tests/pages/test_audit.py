"""docs/audit.md, followed to the letter, and what its last steps say when something is wrong."""

import json
import subprocess
from pathlib import Path

import psycopg
import pytest

from secrets_broker.tools.postgres.binaries import find_binaries
from tests.pages.shell import Shell, blocks
from tests.tools.dev_process import Start, folder, start

__all__ = ["folder", "start"]  # fixtures


@pytest.fixture
def shell(start: Start, folder: Path, bin_dir: Path | None) -> Shell:
    """A shell in the folder of a fresh `secrets-broker dev`."""
    return Shell(start(), folder, find_binaries(bin_dir))


def test_the_page(shell: Shell, folder: Path) -> None:
    """Each step does what it says; then one changed column is found by the same steps."""
    settings, fill, keep, whole, since, receipt, who, when, export, home, ask = blocks("audit.md")
    shell.run(settings + fill + keep)
    for step in (whole, since, receipt):
        assert "OK" in shell.run(settings + step)
    printed = shell.run(settings + who).replace("}{", "}\n{").splitlines()
    answers = [json.loads(line) for line in printed]
    history, exposure, events, unused = answers
    assert [item["version"] for item in history["items"]] == [1]
    (seen,) = exposure["items"]
    assert (seen["actor"], seen["reason"]) == ("backup", "CHG-42")
    assert [item["host"] for item in events["items"]] == ["db1.example"]
    assert [item["host"] for item in unused["items"]] == [f"db{n}.example" for n in (1, 2, 3, 4, 5)]
    state = json.loads(shell.run(settings + who.split("\n")[0] + "\n" + when))
    assert len(state["items"]) == 5
    shell.run(settings + export)
    assert "OK" in shell.run(settings + home)
    assert "backup" in shell.run(settings + ask)
    exported = (folder / "ledger-export").rglob("*")
    everything = b"".join(file.read_bytes() for file in exported if file.is_file())
    assert b"secret-of-" not in everything

    with psycopg.connect(shell.dev.settings["MIGRATION_DATABASE_URL"], autocommit=True) as owner:
        owner.execute("ALTER TABLE ledger.events DISABLE TRIGGER ALL")
        owner.execute("UPDATE ledger.events SET actor = 'nobody' WHERE position = 2")
    wrong = subprocess.CalledProcessError
    with pytest.raises((AssertionError, wrong), match="NOT OK: first wrong position 2"):
        shell.run(settings + whole)

"""With --json or --csv, standard output has the answer and nothing else; the rest is on the other.

On a server with fsync off, which every session of ours that writes warns of.
"""

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.migrations import runner
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.verify.checks.subtree import RANGE
from secrets_broker.tools.verify.run_checks import ALONE
from tests.conftest import INTERNAL_KEY, KMS_KEY, SERVICE_LOGIN, Database
from tests.tools.command_line import run as command
from tests.tools.verify.changing import KEY, checkpoints, history

JSON = {
    "verify": ("verify",),
    "verify with a misplaced file": ("verify", "--since", "kept"),
    "rebuild": ("rebuild", "--check"),
    "replay": ("replay", "--at", "5"),
    "differences": ("replay", "--diff", "5", "90"),
    "due": ("due",),
    "history": ("history", "h05", "ssh"),
    "exposure": ("exposure", "h05", "ssh"),
    "events": ("events",),
    "unused": ("unused", "--since", "0m"),
    "export": ("export", "place", "--no-parquet"),
    "rotate-key": ("rotate-key", "--check"),
    "erase": ("erase", "h05", "*", "--dry-run"),
    "access": ("access", "list"),
    "migrate": ("migrate",),
}
CSV = ("history", "exposure", "events", "unused")
READERS = {*CSV, "due", "export", "access", "migrate"}
"""Those whose own words are all that is on standard error: none of their sessions writes events."""


@pytest.fixture(scope="module")
def careless(bin_dir: Path | None, keyring: Keyring) -> Iterator[Database]:
    """A ledger on a server with fsync off; more ranges than one process takes."""
    folder = Path(tempfile.mkdtemp(prefix="secrets-broker-test-"))
    folder.chmod(0o711)
    try:
        with Cluster(folder, bin_dir=bin_dir, settings={"fsync": "off"}) as running:
            running.ensure_database("careless")
            owner = running.superuser_url("careless")
            runner.apply(owner, lambda _: None)
            running.ensure_login(SERVICE_LOGIN, member_of="secrets_broker_service")
            made = Database("careless", owner, running.url(SERVICE_LOGIN, "careless"))
            history(made, keyring)
            checkpoints(made, (600,))
            yield made
    finally:
        shutil.rmtree(folder)


def env(database: Database) -> dict[str, str]:
    """All settings."""
    return {
        "DATABASE_URL": database.service_url,
        "MIGRATION_DATABASE_URL": database.owner_url,
        "SECRETS_KMS_KEY": KMS_KEY,
        "INTERNAL_KEY": INTERNAL_KEY,
        "LEDGER_VERIFIER_KEY": str(KEY.verifier),
    }


@pytest.mark.parametrize("name", JSON)
def test_json_alone(careless: Database, tmp_path: Path, name: str) -> None:
    """Each line, or all of it, is JSON; the warning is on standard error, in words."""
    ((note,),) = careless.fetch("SELECT note FROM ledger.checkpoints")
    (tmp_path / "kept").write_text(note)
    done = command(*JSON[name], "--json", cwd=tmp_path, env=env(careless))
    assert done.returncode in (0, 1), done.stderr
    try:
        json.loads(done.stdout)
    except json.JSONDecodeError:
        for line in done.stdout.splitlines():
            json.loads(line)
    assert ("fsync_is_off" in done.stderr) == (name not in READERS)
    assert "fsync" not in done.stdout


@pytest.mark.parametrize("name", CSV)
def test_csv_alone(careless: Database, tmp_path: Path, name: str) -> None:
    """As many cells in each line as in the first."""
    done = command(*JSON[name], "--csv", cwd=tmp_path, env=env(careless))
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert (done.returncode, len(rows) > 0) == (0, True), done.stderr
    assert {len(row) for row in rows} == {len(rows[0])}
    assert "as of position 599 of " in done.stderr


def test_json_alone_from_many_processes(careless: Database, tmp_path: Path) -> None:
    """Those that verify starts have connections of their own, and warnings of their own."""
    more = ALONE * RANGE
    statement = """
        INSERT INTO ledger.events (position, at, v, ok, leaf_hash, mac, type, authn)
        SELECT position + n, at, v, ok, leaf_hash, mac, type, authn
        FROM ledger.events, generate_series(1, %s) AS n
        WHERE position = (SELECT max(position) FROM ledger.events WHERE ok)
    """
    careless.execute(statement, more)
    done = command("verify", "--json", cwd=tmp_path, env=env(careless))
    found = json.loads(done.stdout)
    assert (done.returncode, found["size"]) == (1, 600 + more)  # none has its leaf hash
    assert done.stderr.count("fsync_is_off") >= 2

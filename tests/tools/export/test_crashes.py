"""An export that is killed: the folder says its old size, or its new one, and is whole for that."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench import dataset
from secrets_broker.ledger.encryption.keyring import Keyring
from tests.conftest import Database
from tests.ledger.checkpoints import publish_checkpoint
from tests.ledger.helpers import BEGUN
from tests.repository import ROOT
from tests.tools.export.helpers import checkpoint_of, env, exported, files, grow, read_root
from tests.tools.export.whole_folder import whole

LARGE = 66_000  # more than a Parquet file has

# Kills its own process, for good and at once, right before or right after a rename.
KILLED = """
import os, signal, sys
from pathlib import Path
number, name, when = int(sys.argv[1]), sys.argv[2], sys.argv[3]
replace, renamed = Path.replace, []
def replace_and_die(self, target):
    if str(target).endswith(name):
        renamed.append(target)
    if len(renamed) == number and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(self, target)
    if len(renamed) == number:
        os.kill(os.getpid(), signal.SIGKILL)
Path.replace = replace_and_die
from secrets_broker.tools.cli import main
sys.argv = ["secrets-broker", *sys.argv[4:]]
main()
"""


def killed(
    database: Database, folder: Path, *options: str, number: int, name: str = "", when: str
) -> None:
    """Export, and be killed before or after the file of that number whose path ends so."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(number), name, when, "export", str(folder), *options],
        cwd=folder.parent,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env(database)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def same_as_in_one_go(database: Database, folder: Path) -> None:
    """What an export to a new folder has, this one has too, and no other file."""
    once = folder.with_name("once")
    exported(database, once, *(["--with-bodies"] if (folder / "bodies").exists() else []))
    assert files(folder) == files(once)
    assert [p.name for p in folder.rglob("*.parquet")] == [p.name for p in once.rglob("*.parquet")]


@pytest.mark.parametrize("number", [1, 2, 7, 15, 23, 30])
def test_killed_in_the_first_export(
    database: Database, keyring: Keyring, tmp_path: Path, number: int
) -> None:
    """There is no checkpoint, so there is no log yet; the next export finishes it."""
    grow(database, keyring, 3_000)
    killed(database, tmp_path / "out", number=number, when="before")
    assert not (tmp_path / "out/checkpoint").exists()
    exported(database, tmp_path / "out")
    assert whole(tmp_path / "out", 3_000)
    same_as_in_one_go(database, tmp_path / "out")


def test_killed_in_the_middle_of_a_large_export(database: Database, tmp_path: Path) -> None:
    """Tables of a full range are kept; all in all it is what one export would have made."""
    out, once = tmp_path / "out", tmp_path / "once"
    dataset.prepare(database.service_url, database.owner_url, 20, LARGE)
    publish_checkpoint(database)
    killed(database, out, number=3, name=".parquet", when="before")  # of the second range
    full = out / "parquet/events/part-000000000000.parquet"
    before = full.stat().st_ino
    exported(database, out)
    assert full.stat().st_ino == before
    assert whole(out, LARGE)
    same_as_in_one_go(database, out)
    for kind in ("events", "access_log"):
        found, wanted = (pq.read_table(folder / "parquet" / kind) for folder in (out, once))
        # What begins a ledger is no access.
        assert len(wanted) == (LARGE if kind == "events" else LARGE - BEGUN)
        assert found.equals(wanted)


@pytest.mark.parametrize(("when", "size"), [("before", 300), ("after", 900)])
def test_killed_around_the_checkpoint(
    database: Database, keyring: Keyring, tmp_path: Path, when: str, size: int
) -> None:
    """Before it is renamed the folder is the old log, all of it; after it, the new one."""
    grow(database, keyring, 300)
    exported(database, tmp_path / "out")
    grow(database, keyring, 900)
    killed(database, tmp_path / "out", number=1, name="/checkpoint", when=when)
    assert whole(tmp_path / "out", size)
    exported(database, tmp_path / "out")
    assert whole(tmp_path / "out", 900)
    # A partial tile of the earlier checkpoint, whose full tile is not there yet.
    (tmp_path / "out/tile/1/000.p/1").unlink()
    same_as_in_one_go(database, tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    ["entries/001", "0/002", "1/000.p/3", ".parquet", "bodies/001.jsonl", "checkpoints.jsonl"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_a_file(
    database: Database, keyring: Keyring, tmp_path: Path, name: str, when: str
) -> None:
    """The old log is untouched; the next export, of a ledger that has grown since, is whole."""
    grow(database, keyring, 200)
    exported(database, tmp_path / "out", "--no-parquet")
    if name == "checkpoints.jsonl":
        (tmp_path / "out/checkpoints.jsonl").unlink()
    grow(database, keyring, 800)
    killed(database, tmp_path / "out", "--with-bodies", number=1, name=name, when=when)
    assert whole(tmp_path / "out", 200)
    grow(database, keyring, 1_100)
    exported(database, tmp_path / "out", "--with-bodies")
    assert whole(tmp_path / "out", 1_100)
    (tmp_path / "out/tile/1/000.p/3").unlink(missing_ok=True)
    same_as_in_one_go(database, tmp_path / "out")


@pytest.mark.parametrize("left", [b"", b'{"origin":"log.exam', b"\0" * 300, b"\0\n\0"])
def test_a_torn_list_of_checkpoints_is_repaired(
    database: Database, keyring: Keyring, tmp_path: Path, left: bytes
) -> None:
    """What a crash left behind the last good line is cut off, and what is missing comes again."""
    out = tmp_path / "out"
    for size in (3, 5):
        grow(database, keyring, size)
        exported(database, out, "--no-parquet")
    lines = (out / "checkpoints.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (2, 1, 0):
        (out / "checkpoints.jsonl").write_bytes(b"".join(lines[:kept]) + left)
        exported(database, out, "--no-parquet")
        assert (out / "checkpoints.jsonl").read_bytes() == b"".join(lines)


def test_what_a_lost_ledger_left_is_replaced(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Past the folder's checkpoint nothing was vouched for: other content there does not stay."""
    out = tmp_path / "out"
    grow(database, keyring, 200)
    exported(database, out)
    for name in ("tile/entries/000", "tile/0/000", "tile/0/003", "tile/entries/001.p/9"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(b"of events that a restore took away")
    (out / "parquet/events/part-000000065536.parquet").write_bytes(b"the same")
    grow(database, keyring, 300)
    exported(database, out)
    assert whole(out, 300)
    same_as_in_one_go(database, out)


def test_killed_while_it_tidies(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """The checkpoint is there already; what is superfluous goes with the next export."""
    out = tmp_path / "out"
    grow(database, keyring, 300)
    exported(database, out)
    (out / "tile/0/000.p").mkdir()
    (out / "tile/0/000.p/7").write_bytes(b"x" * 224)
    (out / "tile/0/.001.tmp").write_bytes(b"half")
    exported(database, out)
    assert read_root(out)
    assert checkpoint_of(out)[1] == 300
    same_as_in_one_go(database, out)


def test_nothing_past_the_checkpoint_is_listed(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """The list ends with the folder's own checkpoint, also where a larger one was killed."""
    out = tmp_path / "out"
    grow(database, keyring, 3)
    exported(database, out, "--no-parquet")
    grow(database, keyring, 4, published=False)
    publish_checkpoint(database)
    killed(database, out, "--no-parquet", number=1, name="/checkpoint", when="before")
    assert checkpoint_of(out)[1] == 3
    exported(database, out, "--no-parquet")
    lines = (out / "checkpoints.jsonl").read_text().splitlines()
    assert [json.loads(line)["size"] for line in lines] == [3, 4]

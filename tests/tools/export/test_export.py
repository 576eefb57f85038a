"""`secrets-broker export`, as a user runs it: what is in the folder, and when it refuses."""

import fcntl
import json
import os
import stat
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.transparency_log.checkpoint_store import keep_cosignature
from secrets_broker.ledger.transparency_log.note import COSIGNATURE, SigningKey
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.checkpoints import KEY, publish_checkpoint
from tests.ledger.helpers import lookup, record, run, upsert
from tests.projections.keys import erased
from tests.tools.command_line import run as command
from tests.tools.export.helpers import (
    AUDITOR_LOGIN,
    export,
    exported,
    files,
    grow,
    read_entries,
)
from tests.tools.export.whole_folder import whole

WITNESS = SigningKey("witness.example", bytes(32), COSIGNATURE)
SECRET = "hunter2"


@pytest.mark.parametrize("size", [1, 255, 256, 257])
def test_a_folder_is_a_whole_log(
    database: Database, keyring: Keyring, tmp_path: Path, size: int
) -> None:
    """The tiles and entries that the specification names, and no more, up to the checkpoint."""
    grow(database, keyring, size)
    record(database, keyring, lookup("a"))  # past the checkpoint: not exported
    exported(database, tmp_path / "out")
    assert whole(tmp_path / "out", size)
    last = f".p/{size % 256}" if size % 256 else ""
    number = (size - 1) // 256
    wanted = {f"tile/{level}/{number:03d}{last}" for level in ("entries", "0")}
    if size >= 256:
        wanted |= {"tile/entries/000", "tile/0/000", "tile/1/000.p/1"}
    beside = {"README.txt", "checkpoint", "checkpoints.jsonl", "verifier.key"}
    assert set(files(tmp_path / "out")) == wanted | beside
    assert (tmp_path / "out/verifier.key").read_text() == f"{KEY.verifier}\n"


def test_without_a_checkpoint_it_says_how_to_get_one(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Nothing is written; and the command signs nothing itself, whatever key it is given."""
    grow(database, keyring, 3, published=False)
    done = export(database, tmp_path / "out", LEDGER_SIGNING_KEY=KEY.private_text())
    assert done.returncode == 2
    assert "LEDGER_SIGNING_KEY" in done.stderr
    assert "run the service" in done.stderr
    assert not (tmp_path / "out").exists()
    assert database.fetch("SELECT count(*) FROM ledger.checkpoints") == [(0,)]


def test_an_empty_log_is_a_log(database: Database, tmp_path: Path) -> None:
    """A checkpoint may be of no event at all."""
    publish_checkpoint(database)
    exported(database, tmp_path / "out")
    assert whole(tmp_path / "out", 0)


@pytest.mark.parametrize("options", [[], ["--no-parquet"]])
def test_what_is_new_is_added(
    database: Database, keyring: Keyring, tmp_path: Path, options: list[str]
) -> None:
    """Full files are not touched again; at the end it is what one export would have made."""
    out = tmp_path / "out"
    for size in (100, 300, 800, 1_025):
        grow(database, keyring, size)
        before = {name: (out / name).stat().st_ino for name in files(out)}
        for _ in range(2):  # again, with nothing new
            exported(database, out, *options)
            assert whole(out, size)
        for name, inode in before.items():
            if name.startswith("tile/") and ".p/" not in name:
                assert (out / name).stat().st_ino == inode
    exported(database, tmp_path / "once", *options)
    there, once = files(out), files(tmp_path / "once")
    # Partial tiles of an earlier checkpoint stay until their full tile is there.
    assert set(there) - set(once) == {"tile/1/000.p/1", "tile/1/000.p/3"}
    assert {name: there[name] for name in once} == once


def test_every_kept_checkpoint_is_there(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Oldest first, each as it was published; the last one is the folder's."""
    out, notes = tmp_path / "out", []
    for size in (3, 5, 8):
        grow(database, keyring, size, published=False)
        notes.append(str(publish_checkpoint(database)))
        if size != 5:
            exported(database, out, "--no-parquet")
    lines = [json.loads(line) for line in (out / "checkpoints.jsonl").read_text().splitlines()]
    assert lines == [
        {"origin": KEY.name, "size": size, "note": note}
        for size, note in zip((3, 5, 8), notes, strict=True)
    ]
    assert (out / "checkpoint").read_text() == notes[-1]


def test_a_cosignature_that_came_later_is_added(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """To the checkpoint that the folder ended with, also after the log has grown."""
    out = tmp_path / "out"
    grow(database, keyring, 3, published=False)
    signed = publish_checkpoint(database)
    exported(database, out, "--no-parquet")
    line = WITNESS.cosign(signed.checkpoint.text, 1_700_000_000)

    async def cosign() -> None:
        async with await connect(database.service_url) as connection:
            await keep_cosignature(connection, signed.checkpoint, line)

    run(cosign())
    exported(database, out, "--no-parquet")
    assert (out / "checkpoint").read_text() == f"{signed}{line}"
    grow(database, keyring, 4)
    exported(database, out, "--no-parquet")
    first, second = (out / "checkpoints.jsonl").read_text().splitlines()
    assert json.loads(first)["note"] == f"{signed}{line}"
    assert json.loads(second)["size"] == 4


def test_it_holds_no_ciphertext(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """Neither a secret nor a body; and who may read it is for the umask to say."""
    before = os.umask(0o027)
    record(database, keyring, upsert("a", SECRET))
    grow(database, keyring, 5)
    try:
        exported(database, tmp_path / "out")
    finally:
        os.umask(before)
    ((body,),) = database.fetch("SELECT ciphertext FROM ledger.bodies")
    everything = b"".join(files(tmp_path / "out", parquet=True).values())
    for hidden in (SECRET.encode(), body, b64encode(body)):
        assert hidden not in everything
    assert modes(tmp_path / "out") == {0o750, 0o640}


def modes(folder: Path) -> set[int]:
    """The permissions of the folder and of all in it."""
    return {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


def bodies_in(folder: Path) -> dict[int, tuple[str, bytes]]:
    """What the files of bodies say, by position."""
    found = {}
    for path in sorted((folder / "bodies").rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            body = json.loads(line)
            assert body["position"] // 256 == int(path.stem)
            found[body["position"]] = (body["key"], b64decode(body["ciphertext"]))
    return found


@pytest.mark.parametrize("added_later", [False, True])
def test_with_bodies(
    database: Database, keyring: Keyring, tmp_path: Path, added_later: bool
) -> None:
    """Each ciphertext with its key's id, backfilled too; for its owner alone, and it stays so."""
    out = tmp_path / "out"
    grow(database, keyring, 300)
    record(database, keyring, upsert("b"))
    publish_checkpoint(database)
    if added_later:
        exported(database, out)
    assert exported(database, out, "--with-bodies").bodies
    record(database, keyring, upsert("c"))
    publish_checkpoint(database)
    assert exported(database, out).bodies
    query = "SELECT position, key, ciphertext FROM ledger.bodies"
    assert bodies_in(out) == {at: (key, bytes(body)) for at, key, body in database.fetch(query)}
    assert set(bodies_in(out)) == {1, 300, 301}
    for entry_at, (key, body) in bodies_in(out).items():
        named = json.loads(read_entries(out)[entry_at])["body"]
        assert named == {"key": key, "sha256": b64encode(sha256(body).digest()).decode()}
    assert modes(out) == {0o700, 0o600}


def test_an_erased_body_is_not_exported(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Its event is; and the list of erasures, where there is one, says why the body is not."""
    record(database, keyring, upsert("a"), upsert("b"))
    erased(database, keyring, "a")
    publish_checkpoint(database)
    listed = tmp_path / "list"
    listing = {"DATABASE_URL": database.owner_url}
    listed.write_text(command("erase", "--list", cwd=tmp_path, env=listing).stdout)
    done = export(database, tmp_path / "out", "--with-bodies", SECRETS_ERASURES=str(listed))
    assert done.returncode == 0
    assert set(bodies_in(tmp_path / "out")) == {2}
    assert (tmp_path / "out/erasures.jsonl").read_text() == listed.read_text() != ""


@pytest.fixture
def auditor(database: Database, cluster: Cluster) -> str:
    """The URL of a login that is an auditor and nothing else."""
    cluster.ensure_login(AUDITOR_LOGIN, member_of="secrets_broker_auditor")
    return cluster.url(AUDITOR_LOGIN, database.name)


def test_an_auditors_login_is_enough(
    database: Database, keyring: Keyring, tmp_path: Path, auditor: str
) -> None:
    """It makes the same folder; with bodies it is refused before anything is written."""
    grow(database, keyring, 300)
    exported(database, tmp_path / "out", url=auditor)
    exported(database, tmp_path / "same")
    assert files(tmp_path / "out") == files(tmp_path / "same")
    refused = export(database, tmp_path / "new", "--with-bodies", DATABASE_URL=auditor)
    assert refused.returncode == 2
    assert "may not read ledger.bodies" in refused.stderr
    assert not (tmp_path / "new").exists()
    exported(database, tmp_path / "out", "--with-bodies")
    there = files(tmp_path / "out")
    refused = export(database, tmp_path / "out", DATABASE_URL=auditor)
    assert refused.returncode == 2
    assert "has bodies, which this login may not read" in refused.stderr
    assert files(tmp_path / "out") == there


CHANGED_ENTRY = "UPDATE ledger.events SET actor = 'somebody else' WHERE position = 300"
CHANGED_LEAF = "UPDATE ledger.events SET leaf_hash = sha256('x') WHERE position = 300"
CHANGED_NODE = "UPDATE ledger.nodes SET hash = sha256('x') WHERE level = 1 AND index = 0"
REMOVED = "DELETE FROM ledger.events WHERE position = 300"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (CHANGED_ENTRY, "position 300: the event does not have its leaf hash"),
        (CHANGED_LEAF, "position 300: the event does not have its leaf hash"),
        (REMOVED, "position 300: the event is missing"),
        (CHANGED_NODE, "the ledger's first 290 events are not those of"),
    ],
)
def test_a_changed_event_stops_it(
    database: Database, keyring: Keyring, tmp_path: Path, change: str, words: str
) -> None:
    """It names the position, and the folder stays at its old checkpoint, whole."""
    grow(database, keyring, 290)
    exported(database, tmp_path / "out")
    grow(database, keyring, 400)
    tamper(database, change)
    done = export(database, tmp_path / "out")
    assert done.returncode == 2
    assert words in done.stderr
    assert whole(tmp_path / "out", 290)


def test_a_history_that_was_written_anew_stops_it(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Every row may agree with itself: the root of the checkpoint tells."""
    grow(database, keyring, 5)
    # Two events change places, each with its leaf hash.
    tamper(
        database,
        "UPDATE ledger.events SET position = -1 WHERE position = 2",
        "UPDATE ledger.events SET position = 2 WHERE position = 0",
        "UPDATE ledger.events SET position = 0 WHERE position = -1",
    )
    done = export(database, tmp_path / "out")
    assert done.returncode == 2
    assert "do not have the root hash of the checkpoint of size 5" in done.stderr
    assert not (tmp_path / "out/checkpoint").exists()


def tamper(database: Database, *changes: str) -> None:
    """Change the ledger as its owner could, who can take the guards away."""
    for table in ("events", "nodes"):
        database.execute(f"ALTER TABLE ledger.{table} DISABLE TRIGGER ALL")
        query = "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = %s::regclass"
        for (name,) in database.fetch(query, f"ledger.{table}"):
            database.execute(f'ALTER TABLE ledger.{table} DROP CONSTRAINT "{name}"')
    for change in changes:
        database.execute(change)


def test_two_logs_are_never_mixed(
    database: Database, keyring: Keyring, tmp_path: Path, cluster: Cluster
) -> None:
    """Another name, other events under the same name, or fewer of them: each is refused."""
    grow(database, keyring, 300)
    exported(database, tmp_path / "out")
    before = files(tmp_path / "out", parquet=True)
    cases = [
        (SigningKey("b.example", bytes(32)), 300, "is the export of log.example"),
        (KEY, 300, "are not those of"),
        (KEY, 20, "the ledger's checkpoint only 20"),
    ]
    for key, size, words in cases:
        with fresh_database(cluster, TEMPLATE) as other:
            grow(other, keyring, size, published=False)
            publish_checkpoint(other, key=key)
            keys = str(key.verifier)
            done = export(other, tmp_path / "out", LEDGER_VERIFIER_KEY=keys)
        assert done.returncode == 2
        assert words in done.stderr
        assert files(tmp_path / "out", parquet=True) == before


def test_a_checkpoint_of_another_key_is_not_exported(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Where the verifier keys are known, the signature is verified first."""
    grow(database, keyring, 3)
    other = SigningKey(KEY.name, bytes(32)).verifier
    done = export(database, tmp_path / "out", LEDGER_VERIFIER_KEY=str(other))
    assert done.returncode == 2
    assert "no key that was given signed" in done.stderr
    assert not (tmp_path / "out").exists()


def test_another_folder_is_not_written_to(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """What is neither empty nor an export is left as it is; an empty folder will do."""
    grow(database, keyring, 3)
    (tmp_path / "mine").mkdir()
    exported(database, tmp_path / "mine")
    (tmp_path / "others").mkdir()
    (tmp_path / "others/letter").write_text("dear")
    done = export(database, tmp_path / "others")
    assert done.returncode == 2
    assert "is neither empty nor an export" in done.stderr
    assert files(tmp_path / "others") == {"letter": b"dear"}


def test_two_exports_do_not_run_at_once(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """The second one says so, and changes nothing."""
    grow(database, keyring, 3)
    exported(database, tmp_path / "out")
    before = files(tmp_path / "out", parquet=True)
    held = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        grow(database, keyring, 5)
        done = export(database, tmp_path / "out")
    finally:
        os.close(held)
    assert done.returncode == 2
    assert "another export to" in done.stderr
    assert files(tmp_path / "out", parquet=True) == before
    exported(database, tmp_path / "out")


def test_a_covered_file_that_was_changed_is_told(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Never written over: it is what the folder's checkpoint vouched for."""
    grow(database, keyring, 300)
    exported(database, tmp_path / "out")
    tile = tmp_path / "out/tile/entries/001.p/44"
    tile.write_bytes(tile.read_bytes().replace(b"tester", b"nobody"))
    changed = tile.read_bytes()
    done = export(database, tmp_path / "out")
    assert done.returncode == 2
    assert "tile/entries/001.p/44 is not what the ledger has there" in done.stderr
    assert tile.read_bytes() == changed


def test_without_pyarrow_it_says_how(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """Before anything is written; --no-parquet does without."""
    grow(database, keyring, 3)
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'pyarrow':\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    path = os.pathsep.join([str(hide), str(Path(__file__).parents[3])])
    done = export(database, tmp_path / "out", PYTHONPATH=path)
    assert done.returncode == 2
    assert "-m pip install 'pyarrow>=" in done.stderr
    assert "--no-parquet" in done.stderr
    assert not (tmp_path / "out").exists()
    done = export(database, tmp_path / "out", "--no-parquet", PYTHONPATH=path)
    assert done.returncode == 0
    assert whole(tmp_path / "out", 3)


def test_what_cannot_be_written_is_a_clear_error(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """One line, exit 1, and the folder is what it was."""
    grow(database, keyring, 300)
    exported(database, tmp_path / "out")
    grow(database, keyring, 600)
    (tmp_path / "out/tile/entries/001").mkdir()  # nothing can be renamed over it
    done = export(database, tmp_path / "out")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "tile/entries/001" in done.stderr
    assert whole(tmp_path / "out", 300)


def test_it_reports(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """One line for people, or JSON: where, how many, of what log, and what was there."""
    grow(database, keyring, 3)
    done = export(database, tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path}/out: 3 events of log.example with Parquet")
    grow(database, keyring, 5)
    done = export(database, tmp_path / "out", "--json", "--no-parquet")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report.pop("files") > 0
    assert report == {
        "directory": f"{tmp_path}/out",
        "origin": KEY.name,
        "before": 3,
        "size": 5,
        "bodies": False,
        "parquet": False,
    }

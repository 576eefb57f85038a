"""`secrets-broker verify --export`: a folder of tiles, whole or in part, and changed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.tile import (
    encode_bundle,
)
from secrets_broker.settings import Settings
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.verify import run_checks as running
from secrets_broker.tools.verify.run_checks import VerifyPlan
from secrets_broker.tools.verify.sources.source_protocol import SourceError
from secrets_broker.tools.verify.verification import Job, LedgerLocation
from tests.conftest import TEMPLATE, fresh_database
from tests.tools.command_line import run as command
from tests.tools.verify.changing import KEY, Report, checkpoints, history, of_job
from tests.tools.verify.exported_folder import edit, put, write
from tests.tools.verify.verdicts import bad

SIZES = (1, 100, 300, 301, 302, 512, 600)


@pytest.fixture(scope="module")
def exported(
    cluster: Cluster, keyring: Keyring, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """An export with bodies."""
    folder = tmp_path_factory.mktemp("export")
    with fresh_database(cluster, TEMPLATE) as database:
        history(database, keyring)
        checkpoints(database, SIZES)
        write(database, folder)
    yield folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    return copy


def verified(folder: Path, *, partial: bool = False) -> Report:
    """Verify it, with no setting at all."""
    place = LedgerLocation(folder=folder, partial=partial)
    return of_job(Job(Settings({}), VerifyPlan((KEY.verifier,)), None, place))


def test_an_export_that_nobody_changed(folder: Path) -> None:
    """Everything that is in it is checked; what no export has is said."""
    report = verified(folder)
    assert (report.ok, report.size, report.problems, report.remarks) == (True, 600, [], [])
    counts = {"events": 600, "leaves": 600, "nodes": 2, "checkpoints": 7, "signatures": 7}
    assert report.checked == {**counts, "bodies": report.checked["bodies"]}
    assert report.not_checked == [
        "host_credentials and data keys: no export has them",
        "tables: the export has none",
    ]


def test_the_command_needs_no_setting(folder: Path, tmp_path: Path) -> None:
    """A folder and a verifier key are enough: no database, no .env."""
    key = tmp_path / "verifier.key"
    key.write_text(f"{KEY.verifier}\n")
    options = ["verify", "--export", str(folder), "--verifier-key", f"@{key}"]
    done = command(*options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "600 events" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("OK:")
    (folder / "tile/0/000").write_bytes(bytes(32 * 256))
    done = command(*options, "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["first_bad"]) == (1, False, 0)
    done = command(*options, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "NOT OK: first wrong position 0"


@pytest.mark.parametrize("change", [b"", b"{}", b"[", b"\xff", b'{"v":2}'])
def test_an_entry_changed(folder: Path, change: bytes) -> None:
    """Also one that says the same in other words."""
    edit(folder / "tile/entries/001", 20, change)
    bad(verified(folder), 276, "entry")


def test_a_leaf_hash_changed(folder: Path) -> None:
    """The entry's position is named."""
    path = folder / "tile/0/001"
    raw = bytearray(path.read_bytes())
    raw[32 * 20] ^= 1
    path.write_bytes(raw)
    bad(verified(folder), 276, "leaf")


def test_a_node_changed(folder: Path) -> None:
    """The first position below it is named."""
    path = folder / "tile/1/000.p/2"
    raw = bytearray(path.read_bytes())
    raw[32] ^= 1
    path.write_bytes(raw)
    bad(verified(folder), 256, "node")


def test_a_body_changed(folder: Path) -> None:
    """Its event's position is named."""
    path = folder / "bodies/000.jsonl"
    lines = path.read_text().splitlines()
    body = json.loads(lines[3])
    lines[3] = json.dumps({**body, "ciphertext": "AAAA"})
    path.write_text("\n".join(lines))
    bad(verified(folder), body["position"], "body")


def test_without_bodies_that_is_said(folder: Path) -> None:
    """An export for people who may see no ciphertext."""
    shutil.rmtree(folder / "bodies")
    report = verified(folder)
    assert report.ok
    assert "bodies: the export has none" in report.not_checked


@pytest.mark.parametrize("cut", [False, True])
def test_a_bundle_missing_or_cut_off(folder: Path, cut: bool) -> None:
    """The tree is still compared from the leaf hashes; what was not checked is said."""
    path = folder / "tile/entries/001"
    raw = path.read_bytes()
    path.write_bytes(raw[:-1]) if cut else path.unlink()
    report = verified(folder)
    bad(report, 256, "tile" if cut else "missing")
    assert (report.checked["events"], report.checked["leaves"]) == (344, 600)
    assert "256 entries that are not there, or cannot be read" in report.not_checked
    assert report.checks <= {"tile", "missing", "body"}


def test_a_part_of_an_export(folder: Path) -> None:
    """With --partial, what is not there is not checked, and what is there must be right."""
    (folder / "tile/entries/001").unlink()
    (folder / "tile/0/000").unlink()
    shutil.rmtree(folder / "bodies")
    report = verified(folder, partial=True)
    assert (report.ok, report.problems) == (True, [])
    assert report.checked["checkpoints"] == 7
    assert "256 entries that are not there, or cannot be read" in report.not_checked
    edit(folder / "tile/entries/002.p/88", 3, b"{}")
    bad(verified(folder, partial=True), 515, "entry")


def test_a_full_tile_stands_for_a_partial_one(folder: Path) -> None:
    """A folder that was exported again may have only the full tile of what was partial."""
    for level, more in (("0", bytes(32 * 168)), ("entries", encode_bundle([b"{}"] * 168))):
        old = folder / f"tile/{level}/002.p/88"
        put(folder / f"tile/{level}/002", old.read_bytes() + more)
        shutil.rmtree(old.parent)
    report = verified(folder)
    assert report.ok, report.problems
    assert any("the checkpoint does not cover it" in text for text in report.not_checked)


def test_checkpoints_missing_or_changed(folder: Path) -> None:
    """Without the list only the published one is held against the tree, and that is said."""
    path = folder / "checkpoints.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    bad(verified(folder), None, "checkpoint")
    path.write_text("\n".join(["{", *lines]))
    assert "line 1" in verified(folder).details()
    path.unlink()
    report = verified(folder)
    assert (report.ok, report.checked["checkpoints"]) == (True, 1)
    assert "earlier checkpoints: there is no checkpoints.jsonl" in report.not_checked


def test_an_export_that_was_cut_off(folder: Path) -> None:
    """Up to the size of its checkpoint it is whole, whatever else is there already."""
    lines = (folder / "checkpoints.jsonl").read_text().splitlines()
    (folder / "checkpoint").write_text(json.loads(lines[4])["note"])
    report = verified(folder)
    assert (report.ok, report.size) == (True, 302), report.problems
    assert "cut off" in report.remarks[0]


def test_a_folder_that_is_no_export(tmp_path: Path) -> None:
    """It cannot be asked; the text says what to name."""
    with pytest.raises(SourceError, match="secrets-broker export made"):
        verified(tmp_path)


def test_a_size_that_nobody_can_have(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of a quadrillion events, and no more tiles: it ends, and is not ok."""
    monkeypatch.setattr(running, "ENOUGH", 1_000)
    tree = Checkpoint(KEY.name, 10**15, bytes(32))
    (folder / "checkpoint").write_text(str(SignedCheckpoint.sign(tree, KEY)))
    (folder / "checkpoints.jsonl").unlink()
    report = verified(folder)
    bad(report, 0, "missing")
    assert "1000 problems are enough" in "\n".join(report.not_checked)

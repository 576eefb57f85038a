"""Bytes that no tree covers: refused in every file that a tree has a part in, wherever it is read.

By a real export, from its folder and from a server of it.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.transparency_log.tile import (
    BundleError,
    decode_bundle,
    encode_bundle,
    split_hashes,
)
from secrets_broker.settings import Settings
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.shared.remote import NO_TLS, Remote
from secrets_broker.tools.verify.run_checks import VerifyPlan
from secrets_broker.tools.verify.sources.source_protocol import SourceError
from secrets_broker.tools.verify.verification import Job, LedgerLocation
from tests.conftest import AUDITOR_KEY, TEMPLATE, fresh_database
from tests.tools.export.helpers import exported as export_to
from tests.tools.static_broker import static_broker
from tests.tools.verify.changing import KEY, Report, checkpoints, history, of_job

TILES = (
    "tile/entries/000",
    "tile/entries/002.p/88",
    "tile/0/001",
    "tile/0/002.p/88",
    "tile/1/000.p/2",
)


@pytest.fixture(scope="module")
def exported(
    cluster: Cluster, keyring: Keyring, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """What `export` makes of six hundred events, with bodies and tables."""
    folder = tmp_path_factory.mktemp("surplus") / "export"
    with fresh_database(cluster, TEMPLATE) as database:
        history(database, keyring)
        checkpoints(database, (300, 600))
        export_to(database, folder, "--with-bodies")
    yield folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    return copy


def verified(folder: Path, *, partial: bool = False) -> Report:
    """From the folder."""
    place = LedgerLocation(folder=folder, partial=partial)
    return of_job(Job(Settings({}), VerifyPlan((KEY.verifier,)), None, place))


def verified_over_http(folder: Path) -> Report:
    """From a server that serves just that."""
    with static_broker(folder) as url:
        settings = Settings({"AUDITOR_KEY": AUDITOR_KEY})
        place = LedgerLocation(remote=Remote.of(settings, url, NO_TLS))
        return of_job(Job(settings, VerifyPlan((KEY.verifier,)), None, place))


def test_what_export_makes_is_right(folder: Path) -> None:
    """All of it is looked at, tables and bodies too."""
    report = verified(folder)
    assert (report.ok, report.problems) == (True, [])
    assert report.not_checked == ["host_credentials and data keys: no export has them"]
    assert verified_over_http(folder).ok


@pytest.mark.parametrize("path", TILES)
@pytest.mark.parametrize("more", [b"\x00", b"\x00\x00", bytes(32), bytes(64), b"\x00\x02{}"])
def test_a_surplus_in_a_tile(folder: Path, path: str, more: bytes) -> None:
    """A 257th entry, a hash too many, a byte: none of it is in the tree."""
    file = folder / path
    file.write_bytes(file.read_bytes() + more)
    for report in (verified(folder), verified(folder, partial=True), verified_over_http(folder)):
        assert not report.ok
        assert {check for _, check, detail in report.problems if path in detail} == {"tile"}


@given(data=st.data())
@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_that_is_checked_takes_another_byte(exported: Path, data: st.DataObject) -> None:
    """Put any bytes to the end of any file of the export: it is found."""
    free = {"README.txt", "verifier.key", "erasures.jsonl"}
    names = sorted(
        path.relative_to(exported).as_posix()
        for path in exported.rglob("*")
        if path.is_file() and path.name not in free
    )
    file = exported / data.draw(st.sampled_from(names))
    before = file.read_bytes()
    more = data.draw(st.binary(min_size=1, max_size=70))
    if file.suffix == ".jsonl" and not more.strip(b"\r\n\v\f\x1c\x1d\x1e\x85"):
        return  # empty lines say nothing
    file.write_bytes(before + more)
    try:
        report = verified(exported)
    finally:
        file.write_bytes(before)
    assert not report.ok, (file, more)


@pytest.mark.parametrize("level", ["entries", "0"])
def test_an_older_partial_tile(folder: Path, level: str) -> None:
    """It is the beginning of what is covered; another one is refused, though nobody reads it."""
    whole = (folder / f"tile/{level}/001").read_bytes()
    parts = decode_bundle(whole) if level == "entries" else split_hashes(whole)
    content = encode_bundle(parts[:44]) if level == "entries" else b"".join(parts[:44])
    old = folder / f"tile/{level}/001.p/44"
    old.parent.mkdir()
    old.write_bytes(content)
    assert verified(folder).ok
    for other in (content[:-1] + bytes([content[-1] ^ 1]), content + b"\x00", content[:-1]):
        old.write_bytes(other)
        report = verified(folder)
        assert [check for _, check, detail in report.problems if "001.p/44" in detail] == ["tile"]


@pytest.mark.parametrize(
    "path",
    [
        "tile/entries/003",
        "tile/0/002.p/89",
        "tile/2/000",
        "tile/7/000.p/1",
        "tile/0/x",
        "bodies/003.jsonl",
        "parquet/events/part-000000065536.parquet",
        "parquet/more",
        "passwords.txt",
    ],
)
def test_a_file_that_nothing_covers_is_said(folder: Path, path: str) -> None:
    """An export that was cut off leaves some: no fault, but nobody may take it for checked."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(b"{}")
    report = verified(folder)
    assert report.ok, report.problems
    assert [text for text in report.not_checked if path in text], report.not_checked


def test_a_body_too_many(folder: Path) -> None:
    """Of an event of another bundle, of one that has none, there twice, or no body at all."""
    file = folder / "bodies/000.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    body = json.loads(lines[0])
    for more in (lines[0], json.dumps({**body, "position": 256}).encode(), b"{}", b"\xff",
                 json.dumps({**body, "position": 100}).encode()):  # fmt: skip
        file.write_bytes(b"".join(lines) + more + b"\n")
        report = verified(folder)
        assert "body" in report.checks, more


def test_a_checkpoint_with_more(folder: Path) -> None:
    """Nothing may stand before or behind the signed note."""
    file = folder / "checkpoint"
    note = file.read_text()
    for other in (
        note + "x",
        note + "\n",
        note + note,
        "x" + note,
        note.replace("\n600\n", "\n0600\n"),
    ):
        file.write_text(other)
        assert not verified(folder).ok, other
        with suppress(SourceError):  # whatever that was, nothing was said to be right
            assert not verified_over_http(folder).ok


@given(st.lists(st.binary(max_size=5), max_size=300))
def test_the_library_of_parsing(entries: list[bytes]) -> None:
    """No bundle has more than 256 entries, and one of a known width has that many."""
    bundle = encode_bundle(entries)
    hashes = bytes(32) * len(entries)
    if len(entries) <= 256:
        assert decode_bundle(bundle) == decode_bundle(bundle, len(entries)) == entries
        assert len(split_hashes(hashes)) == len(split_hashes(hashes, len(entries))) == len(entries)
    else:
        for parse in (decode_bundle, split_hashes):
            with pytest.raises(BundleError):
                parse(bundle if parse is decode_bundle else hashes)
    for width in (len(entries) + 1, len(entries) - 1):
        with pytest.raises(BundleError):
            decode_bundle(bundle, width)
        with pytest.raises(BundleError):
            split_hashes(hashes, width)

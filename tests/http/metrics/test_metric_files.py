"""Where there is no room for the files that workers count in: a word, no metrics, and a service."""

import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from secrets_broker.http.metrics import metric_files
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, fresh_database
from tests.http.client import Service
from tests.http.conftest import folder, serving
from tests.http.server.raw_requests import logged
from tests.waiting import until

NAME = {"host": "full.example", "purpose": "ssh"}
SMALL = 128 * 1024  # room for a log and for small files, and not for a histogram


def files(service: Service) -> Iterator[Path]:
    """What the workers of a service count in."""
    environment = Path(f"/proc/{service.workers()[0]}/environ")
    assert environment.exists()
    for worker in service.workers():
        maps = Path(f"/proc/{worker}/maps").read_text()
        yield from {Path(line.split()[-1]) for line in maps.splitlines() if ".db" in line}


def test_no_file_that_is_mapped_has_a_hole_or_is_full(fresh: Service) -> None:
    """What is written to is there: all blocks of it, and more of them than are used."""
    for _ in range(4):
        fresh.upsert(**NAME, password="p")
        fresh.get("/metrics")
    found = list(files(fresh))
    kinds = {file.name.rpartition("_")[0] for file in found}
    assert kinds == metric_files.SIZES.keys()
    assert len(found) == len(kinds) * len(fresh.workers())
    for file in found:
        (used,) = struct.unpack("i", file.read_bytes()[:4])
        size = metric_files.SIZES[file.name.rpartition("_")[0]]
        assert used < file.stat().st_size == size
        assert file.stat().st_blocks * 512 >= size


@pytest.fixture
def small_files() -> Iterator[None]:
    """Whatever is begun now can write no large file: as an ordinary user can have it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_service_without_room_serves_and_says_so(cluster: Cluster) -> None:
    """Each worker says it once, none ends, and nothing is half-counted."""
    with (
        fresh_database(cluster, TEMPLATE) as database,
        folder() as place,
        serving(database.service_url, place / "gunicorn.log") as service,
    ):
        assert_serves_without_metrics(service, 2)


def assert_serves_without_metrics(service: Service, workers: int) -> None:
    """A lookup and an upsert go, /metrics says why not, and the log has a line for each worker."""
    assert service.upsert(**NAME, password="p").status == 200
    for _ in range(8):
        assert service.lookup(**NAME).status == 200
        answer = service.get("/metrics")
        assert (answer.status, answer.json["reason"]) == (503, "metrics_off")
    assert len(logged(service, "event", "metrics_off", workers)) == workers
    log = service.log.read_text()
    assert log.count("Booting worker") == workers
    assert "SIGBUS" not in log


def _mounted(place: Path, size: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_full_tmp_and_then_a_reload(cluster: Cluster) -> None:
    """With a real disk that is full: the workers to come count nothing, and they serve."""
    with fresh_database(cluster, TEMPLATE) as database, folder() as place:
        small = place / "tmp"
        small.mkdir(mode=0o700)
        if os.geteuid() != 0 or not _mounted(small, "8m"):
            pytest.skip("needs root, and the right to mount")
        try:
            settings = {"TMPDIR": str(small)}
            with serving(
                database.service_url, place / "gunicorn.log", settings=settings
            ) as service:
                assert service.get("/metrics").status == 200
                _fill(small / "filler")
                before = service.workers()
                os.kill(service.pid, signal.SIGHUP)
                until(lambda: not set(before) & set(service.workers()), "an old worker stays")
                until(lambda: len(service.workers()) == 2, "a new worker is missing")
                assert service.upsert(**NAME, password="p").status == 200
                for _ in range(8):
                    assert service.lookup(**NAME).status == 200
                    assert service.get("/metrics").status == 503
                assert len(logged(service, "event", "metrics_off", 2)) == 2
                assert service.log.read_text().count("Booting worker") == 4
        finally:
            subprocess.run(["umount", "--lazy", str(small)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_a_folder_that_cannot_be_made_is_no_reason_not_to_serve(cluster: Cluster) -> None:
    """Not even at the start: counting is off, and all else is there."""
    told = (
        "import os, tempfile\n"
        "def refuse(*_, **__): raise OSError(28, 'No space left on device')\n"
        "tempfile.mkdtemp = refuse\n"
        "from secrets_broker.http.metrics import metric_files as counters\n"
        "counters.begin(); counters.reserve(os.getpid()); counters.forget(1); counters.end()\n"
        "print(counters.is_off(), counters.FOLDER in os.environ)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "True False"
    assert "No space left on device" in done.stdout + done.stderr

"""The machine that the figures come from, and how busy it and its disk are with other things."""

import os
import platform
import time
from pathlib import Path
from statistics import median
from typing import Final

import psycopg

TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = 8192  # PostgreSQL writes its log in these


def facts(database_url: str, folder: Path) -> list[str]:
    """Lines for the head of a table of figures; `folder` is on the disk that PostgreSQL uses."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT current_setting('server_version')").fetchone()
    assert row is not None
    return [
        f"CPU: {_cpu_model()}, {os.cpu_count()} cores, shared with the load generator",
        f"Linux {platform.release()}, Python {platform.python_version()}, PostgreSQL {row[0]}",
        f"fdatasync of 8 KiB: {sync_microseconds(folder):.0f} us (median)",
        f"load average before: {os.getloadavg()[0]:.2f}",
    ]


def sync_microseconds(folder: Path, rounds: int = 300) -> float:
    """How long a commit's write to disk takes here; rewritten in place, as the log mostly is."""
    path = folder / "sync-probe"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, bytes(PAGE_BYTES))
        os.fsync(descriptor)
        return median(_sync_once(descriptor) for _ in range(rounds)) * 1e6
    finally:
        os.close(descriptor)
        path.unlink()


def _sync_once(descriptor: int) -> float:
    started = time.perf_counter()
    os.pwrite(descriptor, os.urandom(PAGE_BYTES), 0)
    os.fdatasync(descriptor)
    return time.perf_counter() - started


def children(pid: int) -> list[int]:
    """A process's children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            fields = _stat(int(entry.name))
            if fields and int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def cpu_seconds(pids: list[int]) -> float:
    """CPU time that these processes have used so far, the kernel's work for them included."""
    times = (_stat(pid) for pid in pids)
    return sum((int(fields[11]) + int(fields[12])) / TICKS for fields in times if fields)


def resident_mb(pid: int) -> float:
    """A process's resident memory in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(pid)


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # it ended meanwhile
        return None
    return text[text.rindex(")") + 2 :].split()  # the name before may hold anything


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()

"""Processes below this one: what they are, and their end."""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): who is it becomes the parent of all orphans below it, in place of PID 1."""


@dataclass(frozen=True, slots=True)
class Process:
    """What the kernel says of one, at a moment; Linux alone says so in /proc."""

    pid: int
    parent: int
    state: str
    command: str

    @property
    def is_over(self) -> bool:
        """Whether it has ended, collected or not."""
        return self.state in "ZX"


def below(pid: int) -> list[Process]:
    """All that descend from a process, those that have ended and were not collected among them."""
    everything = list(_all())
    found, parents = list[Process](), {pid}
    while parents:
        children = [process for process in everything if process.parent in parents]
        found += children
        parents = {process.pid for process in children}
    return found


def kill(processes: Iterable[Process]) -> None:
    """End them at once, as a crash of all of them would."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGKILL)


def runs(pid: int) -> bool:
    """Whether it is there and has not ended; whoever must collect it may never do so."""
    process = _read(Path(f"/proc/{pid}"))
    return process is not None and not process.is_over


def _all() -> Iterator[Process]:
    for folder in Path("/proc").glob("[0-9]*"):
        process = _read(folder)
        if process is not None:
            yield process


def _read(folder: Path) -> Process | None:
    try:
        # "PID (name) state parent ...", and a name may hold spaces and brackets.
        rest = (folder / "stat").read_text().rpartition(")")[2].split()
        words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (OSError, IndexError):  # it has gone meanwhile
        return None
    return Process(int(folder.name), int(rest[1]), rest[0], words.strip())

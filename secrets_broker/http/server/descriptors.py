"""File descriptors: how many a process may have, and how many of them connections may take."""

import resource
from dataclasses import dataclass, replace
from typing import Final

from secrets_broker.settings import Settings

OWN: Final = 64
"""What a worker needs besides clients' connections: database connections, files and pipes."""
SPARE: Final = 64
"""Spare connections past the caps, for /health and /metrics."""
_UNLIMITED: Final = 1_048_576  # where the system sets no limit: what Linux allows at most (nr_open)


@dataclass(frozen=True, slots=True)
class Caps:
    """How many connections may be open at a time."""

    all: int
    """Over all workers of the service."""
    per_source: int
    """For each address, or IPv6 /64."""
    here: int
    """In one worker, by its limit of file descriptors."""

    @classmethod
    def of(cls, settings: Settings, descriptors: int) -> "Caps":
        """The settings' caps, reduced to what a process with so many descriptors can hold.

        Where they are reduced, one source may have at most half of what a worker can hold.
        """
        caps = cls(settings.max_connections, settings.max_connections_per_source, 0)
        here = max(1, descriptors - OWN - SPARE)
        if here >= caps.all:
            return replace(caps, here=here)
        return replace(caps, here=here, per_source=min(caps.per_source, max(1, here // 2)))

    @property
    def warning(self) -> str | None:
        """The text that tells the operator to raise the limit; None where it is high enough."""
        if self.here >= self.all:
            return None
        needed = self.all + OWN + SPARE
        return (
            f"each worker takes at most {self.here} connections, not {self.all} "
            f"(MAX_CONNECTIONS): the limit of open files is too low. Raise it to {needed} or more: "
            f"LimitNOFILE={needed} in a systemd unit, or ulimit -n {needed}"
        )


def raised() -> int:
    """Raise this process's limit of descriptors as far as possible, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _UNLIMITED if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # some systems have a limit of their own below it
            wanted = soft
    return wanted

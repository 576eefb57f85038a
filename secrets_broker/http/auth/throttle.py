"""The throttle: the first few refusals of a source are events, the rest are counted.

Before a refusal is only counted, an event says so durably (access.counting). A second event gives
the count and the time span (access.counted). Where the process dies between the two, the first one
stands without the second, so the record shows where it is incomplete. A counted refusal costs a
comparison and an addition, and no disk.

A source is an address, or an IPv6 /64, which one subscriber gets (RFC 6177). Sources are many and
cheap, so there is also a cap over all sources: past it, refusals are counted together.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from secrets_broker.ledger.scheduling.network_source import Source

FEW: Final = 5
"""How many refusals of one source, within PERIOD_SECONDS, are events."""
ALTOGETHER: Final = 100
"""The same over all sources."""
PERIOD_SECONDS: Final = 60.0
MAX_WINDOWS: Final = 64
MAX_SOURCES: Final = 4_096
QUIET_SECONDS: Final = 10.0
LONGEST_SECONDS: Final = 60.0

OTHERS: Final = None
"""The source of the window that counts all sources without a window of their own."""


@dataclass(slots=True)
class Window:
    """Refusals that are counted together."""

    source: Source
    began: float
    last: float
    first_at: datetime | None = None
    last_at: datetime | None = None
    count: int = 0
    position: int | None = None
    """The position of the event that says that counting began, once it is durable."""
    late: bool = False
    """Whether that event could not be recorded when counting began, and still has to be."""

    def add(self, now: float, at: datetime, times: int = 1) -> None:
        """Count one refusal, or several of the same moment."""
        self.count += times
        self.last = now
        self.first_at = self.first_at or at
        self.last_at = at

    def is_over(self, now: float) -> bool:
        """Tell whether the window had no refusal for QUIET_SECONDS, or lasted LONGEST_SECONDS."""
        return now - self.last >= QUIET_SECONDS or now - self.began >= LONGEST_SECONDS


@dataclass(slots=True)
class _Recent:
    """Events within a period."""

    began: float
    count: int = 0

    def take(self, now: float, most: int) -> bool:
        if now - self.began >= PERIOD_SECONDS:
            self.began, self.count = now, 0
        if self.count >= most:
            return False
        self.count += 1
        return True


@dataclass(slots=True)
class Throttle:
    """Decides of each refusal whether it is an event or only counted; in bounded memory."""

    windows: dict[Source, Window] = field(default_factory=dict)
    _recent: "OrderedDict[str, _Recent]" = field(default_factory=OrderedDict)
    _all: _Recent = field(default_factory=lambda: _Recent(0.0))

    def window(self, source: Source, now: float) -> Window | None:
        """The window that counts a refusal; None where it is to be an event."""
        open_window = self.windows.get(source)
        if open_window is not None:
            return open_window
        few = source is not None and not self._of(source, now).take(now, FEW)
        if not few and self._all.take(now, ALTOGETHER):
            return None
        return self.open(source if few else OTHERS, now)

    def open(self, source: Source, now: float) -> Window:
        """The window of a source; with too many windows, the shared one of OTHERS."""
        if source not in self.windows and len(self.windows) >= MAX_WINDOWS:
            source = OTHERS
        return self.windows.setdefault(source, Window(source, now, now))

    def over(self, now: float) -> Iterator[Window]:
        """Take out the windows that are over."""
        for window in [window for window in self.windows.values() if window.is_over(now)]:
            yield self.windows.pop(window.source)

    def _of(self, source: str, now: float) -> _Recent:
        recent = self._recent.setdefault(source, _Recent(now))
        self._recent.move_to_end(source)
        if len(self._recent) > MAX_SOURCES:
            self._recent.popitem(last=False)
        return recent

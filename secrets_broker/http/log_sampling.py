"""Log sampling: which requests without a key get a log line.

Anybody may ask for health, metrics and unknown paths without limit, and a line for each could fill
the disk. The metrics count all of them; one line a period says how many lines were left out.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import structlog

from secrets_broker.ledger.scheduling.network_source import source_of

_log = structlog.get_logger("secrets_broker.request")

PERIOD_SECONDS: Final = 60.0
OF_ONE: Final = 300
"""Lines of one source within a period; more than probes and scrapes need."""
ALTOGETHER: Final = 900
"""Lines of all sources within a period, since one attacker may use many."""
MAX_SOURCES: Final = 4_096


@dataclass(slots=True)
class _Period:
    began: float
    written: int = 0
    left_out: int = 0

    def take(self, now: float, most: int) -> bool:
        if now - self.began >= PERIOD_SECONDS:
            self.began, self.written = now, 0
        if self.written >= most:
            return False
        self.written += 1
        return True


class LogSampling:
    """Counts lines in this process, in bounded memory."""

    def __init__(self) -> None:
        self._all = _Period(time.monotonic())
        self._sources: OrderedDict[str | None, _Period] = OrderedDict()

    def take(self, ip: str | None, now: float | None = None) -> bool:
        """Tell whether to write a line for this address; `now` is in seconds, of any origin."""
        now = time.monotonic() if now is None else now
        if now - self._all.began >= PERIOD_SECONDS and self._all.left_out:
            _log.warning("requests_not_logged", count=self._all.left_out)
            self._all.left_out = 0
        written = self._of(source_of(ip), now).take(now, OF_ONE) and self._all.take(now, ALTOGETHER)
        if not written:
            self._all.left_out += 1
        return written

    def _of(self, source: str | None, now: float) -> _Period:
        period = self._sources.setdefault(source, _Period(now))
        self._sources.move_to_end(source)
        if len(self._sources) > MAX_SOURCES:
            self._sources.popitem(last=False)
        return period

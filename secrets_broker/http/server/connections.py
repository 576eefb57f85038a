"""Who may have how many connections: a cap for each source and one over all.

A source is an address, or an IPv6 /64. The connections of a trusted proxy are its clients': they
have no cap of their own as a source, and while a request is under way, its connection counts for
the address that is forwarded with it. Past a cap a few connections are taken all the same, for
/health and /metrics alone, and a moment long; where there are more, the oldest that has asked for
neither goes. Whoever watches the service is not locked out with those who fill it.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from secrets_broker.http.metrics import counters
from secrets_broker.http.server.connection_counts import SHARED, SharedCounts
from secrets_broker.http.server.descriptors import SPARE, Caps
from secrets_broker.http.server.peer import Peers
from secrets_broker.ledger.scheduling.network_source import Source, source_of

_log = structlog.get_logger(__name__)

SPARE_PER_SOURCE: Final = 4
SOURCE: Final = "source"
ALL: Final = "all"
FORWARDED: Final = "forwarded"
_TELL_EACH_SECONDS: Final = 10.0  # nor may connections that are refused fill the disk by the log


class ConnectionSlot:
    """What one connection takes, until it is given up."""

    def __init__(
        self,
        connections: "ConnectionLimits",
        source: Source,
        cap: str | None = None,
        *,
        proxy: bool,
    ) -> None:
        self._connections = connections
        self.source = source
        self._cap = cap
        self._proxy = proxy
        self._forwarded: list[Source] = []
        self._open = True
        self.serving = False
        """Whether something was asked for that is answered on a spare connection, too."""
        self.close: Callable[[], None] = _nothing
        """Ends the connection, with a word if there can be one."""

    @property
    def is_taken(self) -> bool:
        """Whether it was not given up."""
        return self._open

    @property
    def spare(self) -> bool:
        """Whether it is past a cap, and for /health and /metrics alone."""
        return self._cap is not None

    def begin(self, scope: Mapping[str, Any] | None) -> bool:
        """Count a request for whom a proxy forwards it; False where that one has too many.

        None stands for a request that everybody may make.
        """
        self.serving = self.serving or scope is None
        if not self._proxy:
            return True
        source = self._connections.client(scope) if scope else None
        if source is not None and not self._connections.hold(source):
            return False
        self._forwarded.append(source)
        return True

    def end(self) -> None:
        """Count the oldest request that was begun no longer."""
        if self._forwarded and (source := self._forwarded.pop(0)) is not None:
            self._connections.let_go(source)

    def refuse(self) -> None:
        """Note that a request was refused, since there is no place for it."""
        self._connections.refused(self._cap or FORWARDED)

    def give_up(self) -> None:
        """Leave; more than once is once."""
        if self._open:
            self._open = False
            while self._forwarded:
                self.end()
            self._connections.leave(self)

    def clear(self) -> None:
        """Leave it to another one."""
        self.give_up()
        self.close()


class ConnectionLimits:
    """Gives out places."""

    def __init__(self, caps: Caps, proxies: Peers, counts: SharedCounts = SHARED) -> None:
        self._caps, self._proxies, self._counts = caps, proxies, counts
        self._spare: list[ConnectionSlot] = []
        self._untold: Counter[str] = Counter()
        self._told = -_TELL_EACH_SECONDS

    def admit(self, ip: str | None) -> ConnectionSlot | None:
        """A place for a connection from an address; None where there is not even a spare one."""
        source = self.source(ip)
        cap = self._cap(source)
        if cap is not None and not self._makes_room(source):
            self.refused(cap)
            return None
        place = ConnectionSlot(self, source, cap, proxy=source is None and ip is not None)
        if cap is None:
            self._counts.add(source, 1)
        else:
            self._spare.append(place)
        return place

    def source(self, ip: str | None) -> Source:
        """Whose cap an address comes under; None for a proxy's, and over a Unix socket."""
        return None if ip is None or self._proxies.is_proxy(ip) else source_of(ip)

    def client(self, scope: Mapping[str, Any]) -> Source:
        """Whose cap a request comes under."""
        return self.source(self._proxies.address(scope))

    def hold(self, source: str) -> bool:
        """Count a connection for another source than it comes from; False past its cap."""
        if self._counts.of(source) >= self._caps.per_source:
            return False
        self._counts.move(source, 1)
        return True

    def let_go(self, source: str) -> None:
        """Count it no longer."""
        self._counts.move(source, -1)

    def leave(self, place: ConnectionSlot) -> None:
        """A connection has ended."""
        if place.spare:
            self._spare.remove(place)
        else:
            self._counts.add(place.source, -1)

    def refused(self, cap: str) -> None:
        """Count a refusal by its cap; the log has a line now and then, with how many there were."""
        counters.connection_refused(cap)
        self._untold[cap] += 1
        if time.monotonic() - self._told >= _TELL_EACH_SECONDS:
            self._told = time.monotonic()
            _log.warning("connections_refused", caps=dict(self._untold), open=self._counts.all)
            self._untold.clear()

    def observe(self) -> None:
        """Show how many there are."""
        counters.CONNECTIONS.set(self._counts.mine)

    def _cap(self, source: Source) -> str | None:
        if source is not None and self._counts.of(source) >= self._caps.per_source:
            return SOURCE
        if self._counts.all >= self._caps.all or self._counts.mine >= self._caps.here:
            return ALL
        return None

    def _makes_room(self, source: Source) -> bool:
        """Clear the oldest spare place where there are too many; False where all are in use."""
        crowd = [place for place in self._spare if place.source == source]
        if len(crowd) < SPARE_PER_SOURCE:
            crowd = self._spare if len(self._spare) >= SPARE else []
        idle = next((place for place in crowd if not place.serving), None)
        if idle is not None:
            idle.clear()
        return idle is not None or not crowd


def _nothing() -> None:
    pass

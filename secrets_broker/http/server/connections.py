"""How many connections may be open: a cap for each source and one over all.

A source is an address, or an IPv6 /64. A trusted proxy has no cap as a source: while one of its
requests is answered, its connection counts for the forwarded address. Past a cap, a few spare
connections are accepted for a moment, for /health and /metrics only. Where there are too many, the
oldest one that has asked for neither is closed. So monitoring still gets in when the caps are full.
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
_LOG_EACH_SECONDS: Final = 10.0  # refused connections must not fill the disk through the log


class ConnectionSlot:
    """The slot that one connection takes until it is given up."""

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
        """Whether a path was requested that spare connections serve, too."""
        self.close: Callable[[], None] = _nothing
        """Closes the connection, with an answer where one can be sent."""

    @property
    def is_taken(self) -> bool:
        """Whether it was not given up yet."""
        return self._open

    @property
    def spare(self) -> bool:
        """Whether it is past a cap, and serves only /health and /metrics."""
        return self._cap is not None

    def begin(self, scope: Mapping[str, Any] | None) -> bool:
        """Count a request for the client that a proxy forwards; False where it has too many.

        None stands for a request of /health or /metrics, which is always allowed.
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
        """Stop counting the oldest request that was begun."""
        if self._forwarded and (source := self._forwarded.pop(0)) is not None:
            self._connections.let_go(source)

    def refuse(self) -> None:
        """Count that a request was refused because the cap is reached."""
        self._connections.refused(self._cap or FORWARDED)

    def give_up(self) -> None:
        """Give up the slot; a second call does nothing."""
        if self._open:
            self._open = False
            while self._forwarded:
                self.end()
            self._connections.leave(self)

    def clear(self) -> None:
        """Give up the slot to another connection, and close this one."""
        self.give_up()
        self.close()


class ConnectionLimits:
    """Gives out the slots, and counts them."""

    def __init__(self, caps: Caps, proxies: Peers, counts: SharedCounts = SHARED) -> None:
        self._caps, self._proxies, self._counts = caps, proxies, counts
        self._spare: list[ConnectionSlot] = []
        self._unlogged: Counter[str] = Counter()
        self._logged_at = -_LOG_EACH_SECONDS

    def admit(self, ip: str | None) -> ConnectionSlot | None:
        """A slot for a connection from an address; None where there is not even a spare one."""
        source = self.source(ip)
        cap = self._cap(source)
        if cap is not None and not self._makes_room(source):
            self.refused(cap)
            return None
        slot = ConnectionSlot(self, source, cap, proxy=source is None and ip is not None)
        if cap is None:
            self._counts.add(source, 1)
        else:
            self._spare.append(slot)
        return slot

    def source(self, ip: str | None) -> Source:
        """The source whose cap applies; None for a proxy's address, and over a Unix socket."""
        return None if ip is None or self._proxies.is_proxy(ip) else source_of(ip)

    def client(self, scope: Mapping[str, Any]) -> Source:
        """The source whose cap applies to a request."""
        return self.source(self._proxies.address(scope))

    def hold(self, source: str) -> bool:
        """Count a connection for the source that a proxy forwards; False past its cap."""
        if self._counts.of(source) >= self._caps.per_source:
            return False
        self._counts.move(source, 1)
        return True

    def let_go(self, source: str) -> None:
        """Stop counting it."""
        self._counts.move(source, -1)

    def leave(self, slot: ConnectionSlot) -> None:
        """A connection has ended."""
        if slot.spare:
            self._spare.remove(slot)
        else:
            self._counts.add(slot.source, -1)

    def refused(self, cap: str) -> None:
        """Count a refusal by its cap; the log has a line now and then, with how many there were."""
        counters.connection_refused(cap)
        self._unlogged[cap] += 1
        if time.monotonic() - self._logged_at >= _LOG_EACH_SECONDS:
            self._logged_at = time.monotonic()
            _log.warning("connections_refused", caps=dict(self._unlogged), open=self._counts.all)
            self._unlogged.clear()

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
        """Clear the oldest idle spare slot where there are too many; False where none is idle."""
        crowd = [slot for slot in self._spare if slot.source == source]
        if len(crowd) < SPARE_PER_SOURCE:
            crowd = self._spare if len(self._spare) >= SPARE else []
        idle = next((slot for slot in crowd if not slot.serving), None)
        if idle is not None:
            idle.clear()
        return idle is not None or not crowd


def _nothing() -> None:
    pass

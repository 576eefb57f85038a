"""Who reads how much, and from where."""

from typing import Final

import msgspec

from secrets_broker.ledger.event_types import READ
from secrets_broker.ledger.scheduling.network_source import source_of
from secrets_broker.projections.conditions.condition import (
    BULK_READS,
    NEW_SOURCE,
    Finding,
    Happened,
    shown,
)
from secrets_broker.projections.conditions.thresholds import Thresholds

MAX_READERS: Final = 1_024
MAX_ACTORS: Final = 1_024
MAX_SOURCES: Final = 256


class BulkReads(msgspec.Struct):
    """The hosts that each actor was given secrets of lately.

    Past MAX_READERS actors the one that read nothing for longest is forgotten, and counted anew.
    Of an actor no more hosts are kept than it takes to say that there are too many.
    """

    by_actor: dict[str, dict[str, int]] = {}
    """Host and time of its last read; both the actors and the hosts in the order of that."""

    def take(self, event: Happened, at: int, thresholds: Thresholds) -> Finding | None:
        """Count an event."""
        if event.type != READ or not event.ok or event.host is None or event.actor is None:
            return None
        limit, seconds = thresholds.bulk_hosts, thresholds.bulk_seconds
        hosts = self.by_actor.pop(event.actor, {})
        self.by_actor[event.actor] = hosts
        hosts.pop(event.host, None)
        hosts[event.host] = at
        _forget(hosts, at - seconds, limit + 1)
        self._forget_actors(at - seconds)
        if len(hosts) <= limit:
            return None
        return Finding(
            BULK_READS,
            f"{shown(event.actor)} read secrets of more than {limit} hosts within {seconds} s",
            key=f"{BULK_READS} {event.actor}",
            quiet=seconds,
            facts={
                "actor": event.actor,
                "source": source_of(event.ip),
                "count": len(hosts),
                "seconds": seconds,
            },
        )

    def _forget_actors(self, until: int) -> None:
        actor = next(iter(self.by_actor))
        newest = next(reversed(self.by_actor[actor].values()))
        if newest <= until or len(self.by_actor) > MAX_READERS:
            del self.by_actor[actor]


class Sources(msgspec.Struct):
    """Where each actor was seen.

    Past MAX_ACTORS the one not seen for longest is forgotten, and is then one never seen before:
    what it does next is not told. Past MAX_SOURCES of an actor the source not seen for longest is
    forgotten: it is told as new when it comes back, once a cool-down.
    """

    by_actor: dict[str, dict[str, int]] = {}
    """The sources of each actor and when it was seen there last; both in the order of that."""

    def take(self, event: Happened, at: int) -> Finding | None:
        """Note where an actor was seen."""
        source = source_of(event.ip) if event.actor is not None else None
        if event.actor is None or source is None:
            return None
        sources = self.by_actor.pop(event.actor, {})
        self.by_actor[event.actor] = sources
        if len(self.by_actor) > MAX_ACTORS:
            del self.by_actor[next(iter(self.by_actor))]
        is_news = bool(sources) and source not in sources
        sources.pop(source, None)
        sources[source] = at
        if len(sources) > MAX_SOURCES:
            del sources[next(iter(sources))]
        if not is_news:
            return None
        return Finding(
            NEW_SOURCE,
            f"{shown(event.actor)} came from {source}, where it was never seen",
            key=f"{NEW_SOURCE} {source} {event.actor}",
            facts={"actor": event.actor, "source": source},
        )


def _forget(hosts: dict[str, int], until: int, most: int) -> None:
    while len(hosts) > most or next(iter(hosts.values())) <= until:
        del hosts[next(iter(hosts))]

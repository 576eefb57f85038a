"""Which hosts each actor reads, and from which sources."""

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
    """The hosts whose secrets each actor has read lately.

    Past MAX_READERS actors, the one that has read nothing for longest is forgotten, and starts at 0
    again. Only as many hosts are kept for an actor as it takes to find that there are too many.
    """

    by_actor: dict[str, dict[str, int]] = {}
    """By actor, the time of the last read of each host; both levels are in that order."""

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
    """The sources that each actor has used.

    Past MAX_ACTORS, the actor that was quiet for longest is forgotten; its next source is not
    reported, as for any new actor. Past MAX_SOURCES of an actor, the source not used for longest is
    forgotten; it is reported as new when it is used again, once a cool-down.
    """

    by_actor: dict[str, dict[str, int]] = {}
    """By actor, the last time of each source; both levels are in that order."""

    def take(self, event: Happened, at: int) -> Finding | None:
        """Note the source of an event's actor."""
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

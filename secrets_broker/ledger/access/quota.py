"""Limits: how often a grant is used, and how many hosts it reads, within a time. Pure.

A limit counts the grant's permitted events by their own times, including those that found nothing.
Refusals do not count. The window slides: it ends now and began so many seconds ago. So the same
events give the same judgement in every process. A malformed request makes no event; it counts in
the process that received it, as long as that keeps its meters.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice, repeat, takewhile
from typing import Final

from secrets_broker.ledger.access.grants import Granted, Grants
from secrets_broker.ledger.access.rights import RATE_LIMITED, READ, Limit, Refusal, Request, Rights

REQUESTS: Final = "requests"
HOSTS: Final = "hosts"


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a grant, which limits count."""

    position: int
    at: datetime
    host: str | None
    """The host of a read; None for every other operation."""


class Meter:
    """How much of its limits one grant has used; bounded in size by these limits."""

    def __init__(self, rights: Rights) -> None:
        self.size = 0
        """How many events of the ledger it covers."""
        self._requests, self._hosts = rights.requests, rights.hosts
        self._times: deque[datetime] = deque(maxlen=rights.requests.most if rights.requests else 0)
        self._read: OrderedDict[str, datetime] = OrderedDict()

    def add(self, use: Use) -> None:
        """Count a use once; uses come in the order of their positions."""
        if use.position < self.size:
            return
        self.size = use.position + 1
        if self._requests:
            self._times.append(use.at)
        if self._hosts and use.host is not None:
            self._read[use.host] = use.at
            self._read.move_to_end(use.host)
            _forget(self._read, use.at - _span(self._hosts))

    def note(self, at: datetime, times: int) -> None:
        """Count requests that made no event."""
        self._times.extend(repeat(at, min(times, self._times.maxlen or 0)))

    def judge(self, request: Request) -> Refusal | None:
        """Say which limit refuses the request; None if none does."""
        if self._requests and len(self._times) == self._requests.most:
            free_at = self._times[0] + _span(self._requests)
            if request.at < free_at:
                return _refusal(REQUESTS, free_at - request.at)
        if self._hosts and request.operation == READ and request.host is not None:
            return self._another_host(self._hosts, request.host, request.at)
        return None

    def _another_host(self, limit: Limit, host: str, at: datetime) -> Refusal | None:
        within = at - _span(limit)
        last_read = self._read.get(host)
        if last_read is not None and last_read > within:
            return None
        # Ordered by time, so those before the window come first.
        over = sum(1 for _ in takewhile(lambda read_at: read_at <= within, self._read.values()))
        if len(self._read) - over < limit.most:
            return None
        first = next(islice(self._read.values(), over, None))
        return _refusal(HOSTS, first + _span(limit) - at)


@dataclass(slots=True)
class Meters:
    """A meter for each used grant with limits, by the grant's id."""

    by_id: dict[str, Meter] = field(default_factory=dict)

    def add(self, grant_id: str, use: Use) -> None:
        """Count a use of a grant; a grant without a meter is not counted."""
        meter = self.by_id.get(grant_id)
        if meter is not None:
            meter.add(use)

    def note(self, grant_id: str, at: datetime, times: int) -> None:
        """Count requests that made no event; no other process knows of them."""
        meter = self.by_id.get(grant_id)
        if meter is not None:
            meter.note(at, times)

    def start(self, granted: Granted, size: int, uses: Iterable[Use]) -> None:
        """Start a meter with the grant's recent uses, as of a ledger of that size."""
        if granted.rights is None:
            return
        meter = Meter(granted.rights)
        for use in uses:
            meter.add(use)
        meter.size = max(meter.size, size)
        self.by_id[granted.id] = meter

    def still_right(self, before: Grants, after: Grants) -> "Meters":
        """The meters of grants whose rights did not change; changed grants need a new one."""
        kept = {
            grant_id: meter
            for grant_id, meter in self.by_id.items()
            if before.by_id[grant_id].rights == after.by_id[grant_id].rights
        }
        return Meters(kept)

    def judge(self, granted: Granted, request: Request) -> Refusal | None:
        """Say which limit refuses the request; None if none does, or there is no meter."""
        meter = self.by_id.get(granted.id)
        return meter.judge(request) if meter and request.host is not None else None

    def see(self, size: int) -> None:
        """Note that all events below that size are counted."""
        for meter in self.by_id.values():
            meter.size = max(meter.size, size)

    @property
    def size(self) -> int:
        """How many events all meters cover."""
        return min(meter.size for meter in self.by_id.values())


def is_limited(rights: Rights | None) -> bool:
    """Tell whether a grant needs a meter."""
    return rights is not None and (rights.requests is not None or rights.hosts is not None)


def _forget(read: "OrderedDict[str, datetime]", until: datetime) -> None:
    while read and next(iter(read.values())) <= until:
        read.popitem(last=False)


def _span(limit: Limit) -> timedelta:
    return timedelta(seconds=limit.seconds)


def _refusal(rule: str, wait: timedelta) -> Refusal:
    return Refusal(rule, RATE_LIMITED, retry_after=max(1, math.ceil(wait.total_seconds())))

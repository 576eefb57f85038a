"""A fair queue: a caller that fills it finds it full, and other callers do not. Pure.

A share has two parts: the caller as far as it is proven, and a part that divides its share further.
The second one may be a name that the caller claims: by inventing names it divides only its own
share.

What may come in depends on the free room (dynamic thresholds: Choudhury and Hahne, "Dynamic Queue
Length Thresholds in a Shared Memory ATM Switch", 1996): at least as much must be free as the caller
holds already. So a single caller may hold a good part, many share the queue, and a new one finds
room. The caller that was served least goes out next (start-time fair queueing: Goyal, Vin and
Cheng, 1996), and of it the part that was served least. Within a part, requests keep their order. An
idle caller earns no credit.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Final, Generic, NamedTuple, TypeVar

T = TypeVar("T")

MAX_PARTS: Final = 64
"""How many parts of a caller have their own line; all others share one."""
MARGIN: Final = 6
"""How many times a request must fit into the free room. So a caller's large requests leave room for
as much again in small ones, and twice that for others."""


class Share(NamedTuple):
    """Whose share of the queue a request takes."""

    who: Hashable
    part: Hashable = None


@dataclass(slots=True)
class _Line(Generic[T]):
    """The requests of one part of a caller, with their sizes."""

    items: deque[tuple[T, int]] = field(default_factory=deque)
    size: int = 0
    start_tag: int = 0
    """Its virtual start time (start-time fair queueing); the smallest one goes out next."""


@dataclass(slots=True)
class _Account(Generic[T]):
    """All that one caller has waiting."""

    lines: dict[Hashable, _Line[T]] = field(default_factory=dict)
    size: int = 0
    start_tag: int = 0
    virtual_time: int = 0

    def line(self, part: Hashable) -> _Line[T]:
        if part not in self.lines and len(self.lines) >= MAX_PARTS:
            part = None
        return self.lines.setdefault(part, _Line())

    def put(self, part: Hashable, item: T, size: int) -> None:
        line = self.line(part)
        if not line.items:
            line.start_tag = max(line.start_tag, self.virtual_time)
        line.items.append((item, size))
        line.size += size
        self.size += size

    def take(self, room: int) -> tuple[T, int] | None:
        fitting = [line for line in self.lines.values() if line.items and line.items[0][1] <= room]
        if not fitting:
            return None
        line = min(fitting, key=lambda each: each.start_tag)
        item, size = line.items.popleft()
        self.virtual_time = max(self.virtual_time, line.start_tag)
        line.size -= size
        line.start_tag += size
        self.size -= size
        self.start_tag += size
        return item, size

    def drop_idle(self) -> None:
        """Drop the empty lines that are not ahead of the virtual time."""
        for part in [
            p
            for p, line in self.lines.items()
            if not line.size and line.start_tag <= self.virtual_time
        ]:
            del self.lines[part]


class FairQueue(Generic[T]):
    """Waiting requests of many callers; a request's size is its number of commands."""

    def __init__(self, most: int, together: int) -> None:
        """At most `most` commands wait; at most `together` are taken at once."""
        self._most, self._together = most, together
        self._own: deque[tuple[T, int]] = deque()
        self._accounts: dict[Hashable, _Account[T]] = {}
        self._virtual_time = 0
        self.size = 0
        """How many commands wait."""

    def __bool__(self) -> bool:
        """Tell whether anything waits, including requests without a command."""
        return bool(self._own) or self.size > 0

    def put(self, caller: Share, item: T, size: int) -> bool:
        """Add a request of at least one command; False if the caller has no room."""
        assert 0 < size <= self._together  # noqa: S101 - else it could never go out
        account = self._accounts.get(caller.who) or _Account()
        held = account.size + account.line(caller.part).size
        if held + MARGIN * size > self._most - self.size:
            return False
        if not account.size:
            account.start_tag = max(account.start_tag, self._virtual_time)
        account.put(caller.part, item, size)
        self._accounts[caller.who] = account
        self.size += size
        return True

    def put_own(self, item: T, size: int) -> None:
        """Add a request of the service itself: always, and before all others."""
        self._own.append((item, size))
        self.size += size

    def take(self) -> list[T]:
        """Take the next batch; not empty if anything waits."""
        taken, room = self._take_own()
        order = [
            (each.start_tag, n, each) for n, each in enumerate(self._accounts.values()) if each.size
        ]
        heapify(order)
        while order and room:
            start_tag, number, account = heappop(order)
            found = account.take(room)
            if found is None:
                continue  # it does not fit any more; it comes first in the next batch
            taken.append(found[0])
            room -= found[1]
            self.size -= found[1]
            self._virtual_time = max(self._virtual_time, start_tag)
            if account.size:
                heappush(order, (account.start_tag, number, account))
        self._drop_idle()
        return taken

    def take_all(self) -> list[T]:
        """Take everything."""
        taken: list[T] = []
        while self:
            taken += self.take()
        return taken

    def _take_own(self) -> tuple[list[T], int]:
        taken: list[T] = []
        room = self._together
        while self._own and self._own[0][1] <= room:
            item, size = self._own.popleft()
            taken.append(item)
            room -= size
            self.size -= size
        return taken, room

    def _drop_idle(self) -> None:
        for account in self._accounts.values():
            account.drop_idle()
        kept = {
            who: account
            for who, account in self._accounts.items()
            if self.size and (account.size or account.start_tag > self._virtual_time)
        }
        self._accounts = kept

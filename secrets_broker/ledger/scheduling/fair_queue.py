"""A fair queue: whoever fills it finds it full, and nobody else does. Pure.

A caller has two parts: who he is as far as it is proven, and what divides his share further, which
may be his own word. So whoever invents names divides what is his, and takes nothing from others.

What may come in is bounded by what is free (dynamic thresholds: Choudhury and Hahne, "Dynamic Queue
Length Thresholds in a Shared Memory ATM Switch", 1996): as much has to be free as the caller holds
already. So one alone may hold a good part, many share what there is, and a newcomer finds room.
What goes out next is of whoever was given least (start-time fair queueing: Goyal, Vin and Cheng,
1996), by callers first and then by their parts; within a part, in the order in which it came.
Having asked for nothing for a while earns nothing.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Final, Generic, NamedTuple, TypeVar

T = TypeVar("T")

MAX_PARTS: Final = 64
"""Parts of one caller with lines of their own; those past them share one."""
MARGIN: Final = 6
"""How many times a request has to fit into what is free: what a caller's large requests leave him
is room for as much again in smaller ones, and for others twice that."""


class Share(NamedTuple):
    """Whose share of the queue a request takes."""

    who: Hashable
    part: Hashable = None


@dataclass(slots=True)
class _Line(Generic[T]):
    """The requests of one part of a caller, with their sizes."""

    items: deque[tuple[T, int]] = field(default_factory=deque)
    size: int = 0
    turn: int = 0
    """What it was given, as far as that is more than others got."""


@dataclass(slots=True)
class _Account(Generic[T]):
    """All that one caller has waiting."""

    lines: dict[Hashable, _Line[T]] = field(default_factory=dict)
    size: int = 0
    turn: int = 0
    now: int = 0

    def line(self, part: Hashable) -> _Line[T]:
        if part not in self.lines and len(self.lines) >= MAX_PARTS:
            part = None
        return self.lines.setdefault(part, _Line())

    def put(self, part: Hashable, item: T, size: int) -> None:
        line = self.line(part)
        if not line.items:
            line.turn = max(line.turn, self.now)
        line.items.append((item, size))
        line.size += size
        self.size += size

    def take(self, room: int) -> tuple[T, int] | None:
        fitting = [line for line in self.lines.values() if line.items and line.items[0][1] <= room]
        if not fitting:
            return None
        line = min(fitting, key=lambda each: each.turn)
        item, size = line.items.popleft()
        self.now = max(self.now, line.turn)
        line.size -= size
        line.turn += size
        self.size -= size
        self.turn += size
        return item, size

    def forget(self) -> None:
        """Drop the lines that have nothing, and nothing to be remembered by."""
        for part in [
            p for p, line in self.lines.items() if not line.size and line.turn <= self.now
        ]:
            del self.lines[part]


class FairQueue(Generic[T]):
    """Requests of many callers, each of so many commands."""

    def __init__(self, most: int, together: int) -> None:
        """At most so many commands wait, and at most so many are taken out together."""
        self._most, self._together = most, together
        self._own: deque[tuple[T, int]] = deque()
        self._accounts: dict[Hashable, _Account[T]] = {}
        self._now = 0
        self.size = 0
        """How many commands wait."""

    def __bool__(self) -> bool:
        """Tell whether anything waits, a request without a command too."""
        return bool(self._own) or self.size > 0

    def put(self, caller: Share, item: T, size: int) -> bool:
        """Take in a request of at least one command; False where the caller has no room."""
        assert 0 < size <= self._together  # noqa: S101 - else it could never go out
        account = self._accounts.get(caller.who) or _Account()
        held = account.size + account.line(caller.part).size
        if held + MARGIN * size > self._most - self.size:
            return False
        if not account.size:
            account.turn = max(account.turn, self._now)
        account.put(caller.part, item, size)
        self._accounts[caller.who] = account
        self.size += size
        return True

    def put_own(self, item: T, size: int) -> None:
        """Take in what the service itself asks: always, and before all others."""
        self._own.append((item, size))
        self.size += size

    def take(self) -> list[T]:
        """Take out what is recorded together; something, where anything waits."""
        taken, room = self._take_own()
        order = [
            (each.turn, n, each) for n, each in enumerate(self._accounts.values()) if each.size
        ]
        heapify(order)
        while order and room:
            turn, number, account = heappop(order)
            found = account.take(room)
            if found is None:
                continue  # it does not fit any more, and is the first of those to come
            taken.append(found[0])
            room -= found[1]
            self.size -= found[1]
            self._now = max(self._now, turn)
            if account.size:
                heappush(order, (account.turn, number, account))
        self._forget()
        return taken

    def take_all(self) -> list[T]:
        """Take out everything."""
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

    def _forget(self) -> None:
        for account in self._accounts.values():
            account.forget()
        kept = {
            who: account
            for who, account in self._accounts.items()
            if self.size and (account.size or account.turn > self._now)
        }
        self._accounts = kept

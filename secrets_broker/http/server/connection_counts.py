"""How many connections each source has, over all workers of a service.

All workers share one piece of memory. Each writes only its own part, and reads the parts of all.
That needs no lock, and the master clears the part of a worker that dies. Two workers that look at
the same moment may both let a connection in; a cap need not be more exact.

A part is a count-min sketch (Cormode and Muthukrishnan, 2005): a keyed hash chooses some counters
for each source, and the least of them is the answer. The answer is never too low. It is too high
only where other sources share all of these counters, which nobody can cause without the hash's
key. The memory has no file, so a full disk does not matter; it is made before the workers fork.
"""

import mmap
import os
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

PARTS: Final = 160
"""Workers at a time: 64, twice as many during a reload, and some that are slow to end."""
ROWS: Final = 3
WIDTH: Final = 4_096
_COUNTERS: Final = 1 + ROWS * WIDTH
"""Counters of a part: first that of all its connections, then the rows."""
_LAST: Final = PARTS - 1
"""The part of a process without a master, or for which no part was free."""
_USED: Final = PARTS * _COUNTERS
"""The index of the counter of parts, from the first, that workers use or have used."""


class SharedCounts:
    """The shared memory, and this process's part of it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, (PARTS * _COUNTERS + 1) * 4)
        self._counters = memoryview(self._memory).cast("I")
        self._key = os.urandom(16)
        self._owners: dict[int, object] = {}
        self._mine = _LAST

    def reserve(self, owner: object) -> None:
        """In the master, before it forks a worker: choose the worker's part."""
        free = (part for part in range(_LAST) if part not in self._owners)
        self._mine = next(free, _LAST)
        if self._mine != _LAST:
            self._owners[self._mine] = owner
            self._counters[_USED] = max(self._counters[_USED], self._mine + 1)

    def release(self, owner: object) -> None:
        """In the master, after a worker has ended: clear its part."""
        for part in [part for part, whose in self._owners.items() if whose is owner]:
            del self._owners[part]
            begin = part * _COUNTERS
            self._counters[begin : begin + _COUNTERS] = memoryview(bytes(4 * _COUNTERS)).cast("I")

    def add(self, source: str | None, number: int) -> None:
        """Add a number (-1 for an end) to the connections of a source, or of no source."""
        begin = self._mine * _COUNTERS
        self._counters[begin] += number
        if source is not None:
            for counter in self._places(source):
                self._counters[begin + counter] += number

    def move(self, source: str, number: int) -> None:
        """Add a number to a source, for connections that `add` has counted already."""
        begin = self._mine * _COUNTERS
        for counter in self._places(source):
            self._counters[begin + counter] += number

    def of(self, source: str) -> int:
        """How many connections a source has, in all workers."""
        return min(self._sum(counter) for counter in self._places(source))

    @property
    def all(self) -> int:
        """How many connections there are, in all workers."""
        return self._sum(0)

    @property
    def mine(self) -> int:
        """How many this process has."""
        return self._counters[self._mine * _COUNTERS]

    def _sum(self, counter: int) -> int:
        return sum(self._counters[part * _COUNTERS + counter] for part in self._parts())

    def _parts(self) -> Iterator[int]:
        yield from range(self._counters[_USED])
        yield _LAST

    def _places(self, source: str) -> list[int]:
        digest = blake2b(source.encode(), key=self._key, digest_size=2 * ROWS).digest()
        return [
            1 + row * WIDTH + int.from_bytes(digest[2 * row : 2 * row + 2], "big") % WIDTH
            for row in range(ROWS)
        ]


SHARED: Final = SharedCounts()

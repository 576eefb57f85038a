"""How many connections each source has, over all workers of a service.

Every worker writes in a part of its own of one piece of shared memory, and reads the parts of all:
no lock, and nothing that a worker which dies could leave behind, since the master clears its part.
Two workers that look at the same moment may both let one in; that is as exact as a cap needs to be.

A part is a count-min sketch (Cormode and Muthukrishnan, 2005): some counters for each source,
chosen by a keyed hash, the least of which is the answer. It is never too low, and too high only
where others share all of them, which nobody can bring about without the key. The memory has no
file, so no full disk can take it away; it is made before the workers are forked.
"""

import mmap
import os
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

PARTS: Final = 160
"""Workers at a time: 64, twice as many while they are reloaded, and some that are slow to end."""
ROWS: Final = 3
WIDTH: Final = 4_096
_COUNTERS: Final = 1 + ROWS * WIDTH
"""Of a part: all its connections, then the rows."""
_LAST: Final = PARTS - 1
"""The part of a process that no master has given one."""
_USED: Final = PARTS * _COUNTERS
"""Where the master says how many parts, from the first, are or were some worker's."""


class SharedCounts:
    """The memory, and which of its parts is this process's."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, (PARTS * _COUNTERS + 1) * 4)
        self._counters = memoryview(self._memory).cast("I")
        self._key = os.urandom(16)
        self._owners: dict[int, object] = {}
        self._mine = _LAST

    def reserve(self, owner: object) -> None:
        """In the master, before a worker is forked: the part that is to be the worker's."""
        free = (part for part in range(_LAST) if part not in self._owners)
        self._mine = next(free, _LAST)
        if self._mine != _LAST:
            self._owners[self._mine] = owner
            self._counters[_USED] = max(self._counters[_USED], self._mine + 1)

    def release(self, owner: object) -> None:
        """In the master, once a worker has ended: what it counted is no more."""
        for part in [part for part, whose in self._owners.items() if whose is owner]:
            del self._owners[part]
            begin = part * _COUNTERS
            self._counters[begin : begin + _COUNTERS] = memoryview(bytes(4 * _COUNTERS)).cast("I")

    def add(self, source: str | None, number: int) -> None:
        """Count connections of a source, or of none in particular, that begin or (-1) end."""
        begin = self._mine * _COUNTERS
        self._counters[begin] += number
        if source is not None:
            for counter in self._places(source):
                self._counters[begin + counter] += number

    def move(self, source: str, number: int) -> None:
        """Count for a source, or no longer, a connection that is counted already."""
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

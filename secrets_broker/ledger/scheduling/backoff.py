"""The back-off between failed attempts to reach the database. Pure.

A recovering server forks a process for each attempt, only to say that it is not ready. Many clients
that retry at once slow it down. So the pause grows from some tens of milliseconds to a second. It
is drawn at random below that, so that a service's processes do not retry together. It is never
zero, as full jitter would allow.
"""

import random
from collections.abc import Callable
from typing import Final

FIRST_SECONDS: Final = 0.05
LONGEST_SECONDS: Final = 1.0
_DOUBLINGS: Final = 10  # far past the longest


class Backoff:
    """Says when the next attempt may begin."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._attempts = 0
        self._not_before = 0.0

    def attempt(self, now: float) -> None:
        """Note that an attempt begins; until `worked`, it counts as failed."""
        pause = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(self._attempts, _DOUBLINGS))
        self._attempts += 1
        self._not_before = now + pause * (0.5 + 0.5 * self._chance())

    def worked(self) -> None:
        """Note that the attempt worked: the next one need not wait."""
        self._attempts, self._not_before = 0, 0.0

    def wait(self, now: float) -> float:
        """How many seconds the next attempt has to wait."""
        return max(0.0, self._not_before - now)

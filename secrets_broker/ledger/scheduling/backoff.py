"""How far attempts to reach the database are apart while they fail. Pure.

A server that recovers has to answer each attempt, and forks a process to say that it is not ready
yet; so many clients that try at once, again and again, are what it does not need then. The pause
grows from some tens of milliseconds to a second, and is drawn by chance below that, so that the
processes of a service do not come together (full jitter would allow no pause at all).
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
        """Note that one begins; until it is known that it worked, it counts as failed."""
        pause = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(self._attempts, _DOUBLINGS))
        self._attempts += 1
        self._not_before = now + pause * (0.5 + 0.5 * self._chance())

    def worked(self) -> None:
        """Note that what was reached did its work: the next attempt need not wait."""
        self._attempts, self._not_before = 0, 0.0

    def wait(self, now: float) -> float:
        """How many seconds the next attempt has to wait."""
        return max(0.0, self._not_before - now)

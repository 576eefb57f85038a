"""Memory over a time, bounded. Times are whole seconds and never decrease."""

from typing import Final

import msgspec

MAX_TOLD: Final = 4_096


class Buckets(msgspec.Struct):
    """A count over a sliding window: the current step and those before it."""

    step: int
    """Seconds."""
    steps: int
    counts: dict[int, int] = {}
    """By the number of the step since 1970, oldest first; at most `steps` of them."""
    total: int = 0

    def add(self, at: int) -> None:
        """Count one."""
        self.move(at)
        number = at // self.step
        self.counts[number] = self.counts.get(number, 0) + 1
        self.total += 1

    def move(self, at: int) -> None:
        """Forget the steps that have left the window."""
        first = at // self.step - self.steps + 1
        while self.counts and (oldest := next(iter(self.counts))) < first:
            self.total -= self.counts.pop(oldest)


class LastTold(msgspec.Struct):
    """When each condition was last reported, and when it last held.

    Past MAX_TOLD keys, the one that has not held for longest is forgotten. It may then be reported
    again before its cool-down is over; it is never held back.
    """

    by_key: dict[str, tuple[int, int]] = {}

    def tells(self, key: str, at: int, quiet: int, cooldown: int) -> bool:
        """Note that a condition holds at a time; whether to report it.

        It is reported the first time, again after it has not held for `quiet` seconds, and while
        it holds each `cooldown` seconds.
        """
        told_at, held_at = self.by_key.pop(key, (None, None))
        tells = (
            told_at is None or held_at is None or at - held_at > quiet or at - told_at >= cooldown
        )
        self.by_key[key] = (at if tells or told_at is None else told_at, at)
        if len(self.by_key) > MAX_TOLD:
            del self.by_key[next(iter(self.by_key))]
        return tells

"""Time slices: long work on the event loop lets other tasks run in between."""

import asyncio
import time
from typing import Final

PIECE_SECONDS: Final = 0.005
"""How long one request may keep the event loop at a time."""


class TimeSlice:
    """A slice of the event loop's time."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def yield_if_over(self) -> None:
        """Let other tasks run if the slice is used up; else this is nearly free."""
        if time.perf_counter() - self._began >= PIECE_SECONDS:
            await asyncio.sleep(0)
            self._began = time.perf_counter()

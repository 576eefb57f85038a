"""Work that others wait for: cut into pieces, between which they have their turn."""

import asyncio
import time
from typing import Final

PIECE_SECONDS: Final = 0.005
"""What one request may keep the event loop for in one piece; others wait that long for each."""


class TimeSlice:
    """Says when to let others have the event loop."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def yield_if_over(self) -> None:
        """Let others have their turn, where this one has had its own; costs next to nothing."""
        if time.perf_counter() - self._began >= PIECE_SECONDS:
            await asyncio.sleep(0)
            self._began = time.perf_counter()

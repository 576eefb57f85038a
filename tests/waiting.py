"""Waiting for what another process or thread does: ask again and again, and give up in the end."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 20.0
"""Longer than anything takes on a machine that has much else to do."""
_POLL_SECONDS = 0.02


def until(is_so: Callable[[], T], what: str = "", *, seconds: float = PATIENCE_SECONDS) -> T:
    """Ask until the answer is true, and return it; fail with `what` after so many seconds."""
    give_up = time.monotonic() + seconds
    while not (answer := is_so()):
        assert time.monotonic() < give_up, what or "what a test waits for did not happen"
        time.sleep(_POLL_SECONDS)
    return answer


async def until_async(
    is_so: Callable[..., T], *arguments: Any, what: str = "", seconds: float = PATIENCE_SECONDS
) -> T:
    """The same from an event loop, which goes on meanwhile: each question has a thread."""
    give_up = time.monotonic() + seconds
    while not (answer := await asyncio.to_thread(is_so, *arguments)):
        assert time.monotonic() < give_up, what or "what a test waits for did not happen"
        await asyncio.sleep(_POLL_SECONDS)
    return answer

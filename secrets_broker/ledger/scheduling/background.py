"""Background tasks of an event loop: started once, told to close, ended within a bound.

    task = BackgroundTask("checkpointer", self._run)
    task.start()
    ...
    while not await task.pause(seconds):     # in `_run`; True once it is to close
        ...
    await task.close(within=4.0)

The task must catch what a pass may raise: an error would end it unnoticed.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any


class BackgroundTask:
    """One task of the event loop that `start` is called in."""

    def __init__(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._name = name
        self._work = work
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_begun(self) -> bool:
        """Whether it was started."""
        return self._task is not None

    @property
    def is_closing(self) -> bool:
        """Whether it is to end."""
        return self._closing.is_set()

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._work(), name=self._name)

    async def pause(self, seconds: float) -> bool:
        """Wait so many seconds, or until it is to close; return whether it is."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
        return self._closing.is_set()

    async def close(self, within: float | None = 0.0) -> None:
        """Let it end within so many seconds (None: without a limit), else cancel it."""
        self._closing.set()
        if self._task is None:
            return
        if within is None:
            await self._task
            return
        if within:
            await asyncio.wait([self._task], timeout=within)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

"""Work that continues until somebody ends it: by Ctrl-C, or by SIGTERM from a service manager."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def until_told_to_end(work: Coroutine[Any, Any, T]) -> T | None:
    """Do it, and cancel it at the first SIGINT or SIGTERM; None where that broke it off.

    The handlers are set, not inherited: a shell starts what it puts into the background with
    SIGINT ignored (POSIX, 2.11), and then Python has no KeyboardInterrupt, and so no Ctrl-C.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return None

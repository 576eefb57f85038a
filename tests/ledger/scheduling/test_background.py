"""Background tasks: they end when they are told to, in the time that they are given."""

import asyncio

import pytest

from secrets_broker.ledger.scheduling.background import BackgroundTask
from tests.ledger.helpers import run


def test_a_pause_ends_when_the_task_is_to_close() -> None:
    """However long it is: who closes waits for the work, and never for a pause."""
    passes: list[bool] = []

    async def all_of_it() -> None:
        async def work() -> None:
            passes.append(await task.pause(3_600))

        task = BackgroundTask("pausing", work)
        task.start()
        await asyncio.sleep(0)
        await task.close(within=None)

    run(all_of_it())
    assert passes == [True]


@pytest.mark.parametrize("within", [0.0, 0.01])
def test_what_does_not_end_in_its_time_is_cancelled(within: float) -> None:
    """The process can end, whatever a task waits for."""
    ended: list[str] = []

    async def all_of_it() -> None:
        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

        task = BackgroundTask("stuck", work)
        task.start()
        await asyncio.sleep(0)
        await task.close(within=within)
        ended.append("closed")

    run(all_of_it())
    assert ended == ["cancelled", "closed"]


def test_one_that_never_began_closes_at_once() -> None:
    """A start that failed before it leaves nothing to wait for."""

    async def all_of_it() -> bool:
        async def work() -> None:
            raise AssertionError

        task = BackgroundTask("idle", work)
        await task.close(within=None)
        return task.is_begun or not task.is_closing

    assert run(all_of_it()) is False


def test_an_error_of_the_work_is_not_lost() -> None:
    """Who waits for the end hears of it."""

    async def all_of_it() -> None:
        async def work() -> None:
            raise OSError("gone")

        task = BackgroundTask("failing", work)
        task.start()
        await task.close(within=None)

    with pytest.raises(OSError, match="gone"):
        run(all_of_it())

"""`secrets-broker dev`, killed again and again: what only a machine has the patience for."""

import random

import pytest

from tests import processes
from tests.tools.dev_process import Start, folder, start
from tests.tools.postgres.helpers import linux_only

__all__ = ["folder", "start"]  # fixtures

KILLS = 25


@pytest.mark.long
@linux_only
def test_killed_at_any_moment(start: Start) -> None:
    """After each kill -9 of all of it, at whatever moment, it starts and has all acknowledged."""
    stored: list[str] = []
    for number in range(KILLS):
        dev = start()
        assert dev.first_line == f"ready http://127.0.0.1:{dev.port}"
        for host in stored[-3:]:
            assert dev.post("lookup", host=host, purpose="ssh")["password"] == f"p-{host}"
        for _ in range(random.randrange(30)):  # noqa: S311 - a moment, and no secret
            host = f"h{number}-{len(stored)}"
            dev.post("upsert", host=host, purpose="ssh", password=f"p-{host}")
            stored.append(host)
        running = processes.below(dev.process.pid)
        dev.process.kill()
        processes.kill(running)
        dev.process.wait(20)

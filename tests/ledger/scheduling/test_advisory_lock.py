"""One run of a tool at a time, and who is told to be running."""

import os

import pytest

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.errors import BusyError
from secrets_broker.ledger.scheduling.advisory_lock import take_advisory_lock, user_name
from tests.conftest import Database
from tests.ledger.helpers import run

NOBODY = 2**31 - 5


@pytest.fixture
def _nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number of which nobody wrote down a name."""
    for name in "LOGNAME", "USER", "LNAME", "USERNAME":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)


@pytest.mark.usefixtures("_nameless")
def test_a_user_without_a_name() -> None:
    """Is told by the number."""
    assert user_name() == f"uid {NOBODY}"


@pytest.mark.usefixtures("_nameless")
def test_the_second_one_is_told_who_runs(database: Database) -> None:
    """Also where that user has no name: the lock is taken all the same."""

    async def both() -> None:
        async with await connect(database.service_url) as first:
            await take_advisory_lock(first, "a tool")
            async with await connect(database.service_url) as second:
                with pytest.raises(BusyError, match=f"a tool by uid {NOBODY}"):
                    await take_advisory_lock(second, "a tool")
                await take_advisory_lock(second, "another tool")

    run(both())

"""A SIGTERM while callers wait for the ledger: each is answered, or refused in words."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.conftest import AUDITOR_KEY
from tests.http.client import LOOKUP, Answer, Service
from tests.waiting import until

NAME = {"host": "stop.example", "purpose": "ssh"}
CALLERS = 12


@contextmanager
def held(service: Service) -> Iterator["psycopg.Connection[object]"]:
    """The ledger's lock is another's, so that whoever records waits."""
    with psycopg.connect(service.database.owner_url) as connection:
        connection.execute("SELECT FROM ledger.lock FOR UPDATE")
        yield connection


def callers(pool: ThreadPoolExecutor, service: Service) -> "list[Future[Answer]]":
    """Lookups, alone and in batches, and what is only read; all of them under way."""
    asked: list[tuple[str, str, Any, str]] = [("POST", LOOKUP, NAME, "")] * CALLERS
    asked += [("POST", f"{LOOKUP}-batch", {"items": [NAME] * 3}, "")] * 2
    asked += [("GET", "/internal/audit/events", None, AUDITOR_KEY)]
    return [pool.submit(lambda one: service.send(*one[:3], key=one[3]), one) for one in asked]


def waiting(service: Service) -> int:
    """How many sessions of the service wait for the lock."""
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database IS NOT NULL"
    other = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    ((locks,),), ((sessions,),) = service.database.fetch(query), service.database.fetch(other)
    return max(int(locks), int(sessions))


@pytest.mark.parametrize("freed", [True, False], ids=["the lock is freed", "it is not"])
def test_who_waits_when_it_ends_is_answered(fresh: Service, freed: bool) -> None:
    """Longer than a moment: 200 once the ledger can be written, else 503 with its reason."""
    assert fresh.upsert(**NAME, password="pw-stop").status == 200
    with ThreadPoolExecutor(32) as pool, held(fresh) as lock:
        asked = callers(pool, fresh)
        until(lambda: waiting(fresh), "nobody waits for the lock")
        wait(asked, timeout=1.0)  # all are under way: what is only read is answered
        os.kill(fresh.pid, signal.SIGTERM)
        wait(asked, timeout=3.5)
        assert not all(one.done() for one in asked)
        if freed:
            lock.rollback()
        answers = [one.result(timeout=40) for one in asked]
    *recorded, read = answers
    assert read.status == 200
    for answer in recorded:
        if answer.status == 503:
            assert answer.json["reason"] in ("ledger_unavailable", "outcome_unknown")
        else:
            assert answer.status == 200
            assert "pw-stop" in answer.text
    assert {answer.status for answer in recorded} == ({200} if freed else {503})


def test_an_idle_service_ends_at_once(fresh: Service) -> None:
    """The time that is left to those who wait is not waited for where nobody does."""
    began = time.monotonic()
    os.kill(fresh.pid, signal.SIGTERM)
    while fresh.workers():
        assert time.monotonic() - began < 15
        time.sleep(0.05)

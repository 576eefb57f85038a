"""`python -m bench.access`: what access keys cost a lookup, and what a flood of refusals does.

Cost: one service is loaded with the shared key, with an access key, and with an access key that has
limits, in turns; the medians are compared.

Flood: callers ask at a fixed rate with an access key, first alone, then while a million requests
with an unknown key are refused. The 99th percentiles of the honest ones are set against each other.
When the service has ended, the refusals that the ledger tells of, one by one and in counts, have to
be exactly as many as were sent.
"""

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Final

import psycopg

from bench import load, machine, stack
from bench.load import Figures, Load
from bench.report import at_most, number, table
from bench.stack import INTERNAL_KEY, KMS_KEY, Service
from secrets_broker.ledger.access.access_key import digest, new_access_key, new_grant_id
from secrets_broker.ledger.access.grant_commands import Grant
from secrets_broker.ledger.access.rights import Rights
from secrets_broker.ledger.commands import parse
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.operations import granting
from secrets_broker.tools.postgres import Cluster
from tests.ledger.helpers import login_of

WHO: Final = Context(actor="bench", authn="cli")
CREDENTIALS: Final = 2_000
RULE: Final = {"allow": ["read"], "hosts": ["host-*"], "purposes": ["ssh"]}
LIMITS: Final = {"requests": [1_000_000, 3_600], "hosts": [1_000_000, 3_600]}
HONEST: Final = Load("lookup", 16, CREDENTIALS, 0, per_second=500)
FLOODING: Final = 16  # connections
COST: Final = at_most(1.05)
SLOWDOWN: Final = at_most(2)

_TOLD: Final = """
    SELECT count(*) FILTER (WHERE type = 'access.denied'),
           coalesce(sum((details ->> 'count')::bigint) FILTER (WHERE type = 'access.counted'), 0),
           count(*) FILTER (WHERE type = 'access.counting')
         - count(*) FILTER (WHERE type = 'access.counted'),
           count(*) FILTER (WHERE type LIKE 'access.%')
    FROM ledger.events
"""


def _grant(owner_url: str, name: str, **limits: object) -> str:
    key = new_access_key()
    rights = parse(Rights, {"rules": [RULE], **limits})
    command = Grant(grantee=name, id=new_grant_id(), sha256=digest(key), rights=rights)
    keyring = Keyring.from_kms_keys(KMS_KEY)
    asyncio.run(granting.change(login_of(owner_url, keyring), command, WHO))
    return key


def _costs(
    service: Service, postmaster: int, keys: list[str], seconds: int, rounds: int
) -> list[list[str]]:
    rows = []
    for connections in (64, 1):
        loads = [Load("lookup", connections, CREDENTIALS, seconds, key=key) for key in keys]
        turns = [[load.run(service, postmaster, each) for each in loads] for _ in range(1 + rounds)]
        compared = [load.medians([turn[side] for turn in turns[1:]]) for side in range(len(keys))]
        rows += _lines(connections, compared)
    return rows


def _lines(connections: int, compared: list[Figures]) -> list[list[str]]:
    title = f"lookups, {connections} connection{'s' if connections > 1 else ''}"
    figures = {
        "p50 ms": [each.p50_ms for each in compared],
        "p99 ms": [each.p99_ms for each in compared],
        "req/s": [each.rate for each in compared],
        "CPU us a request, workers": [each.worker_cpu for each in compared],
    }
    return [
        [
            f"{title}: {name}",
            *map(number, (shared, key, limited)),
            f"{key / shared:.2f}",
            COST.judge(key / shared) if name == "p50 ms" else "",
        ]
        for name, (shared, key, limited) in figures.items()
    ]


def _flood(
    service: Service, postmaster: int, key: str, refusals: int, per_second: int
) -> tuple[float, float]:
    """The honest 99th percentiles in ms: alone, and during the flood."""
    seconds = ceil(refusals / per_second)
    honest = replace(HONEST, key=key)
    quiet = load.run(service, postmaster, replace(honest, seconds=30)).p99_ms
    flood = Load(
        *("lookup", FLOODING, CREDENTIALS, seconds + max(10, seconds // 4), per_second),
        key=new_access_key(),
        refusals=refusals,
    )
    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(load.run, service, postmaster, flood)
        busy = load.run(service, postmaster, replace(honest, seconds=max(seconds - 2, 1))).p99_ms
        flooding.result()
    return quiet, busy


def _told(owner_url: str, refusals: int) -> str:
    """How many refusals the ledger tells of; raises RuntimeError where it is another number."""
    with psycopg.connect(owner_url) as connection:
        row = connection.execute(_TOLD).fetchone()
    assert row is not None
    denied, counted, unknown, events = row
    if denied + counted != refusals or unknown:
        raise RuntimeError(f"{refusals} refusals were sent, the ledger tells otherwise: {row}")
    return f"{denied:,} refusals one by one and {counted:,} counted, in {events} events: exact"


def _measure(
    running: Cluster, work: Path, options: argparse.Namespace
) -> tuple[list[list[str]], list[str]]:
    assert running.pid is not None
    url, owner_url = stack.ledger_database(running, "access"), running.superuser_url("access")
    with stack.broker(work, url) as service:
        load.store(service, CREDENTIALS)
        keys = [INTERNAL_KEY, _grant(owner_url, "bench"), _grant(owner_url, "limited", **LIMITS)]
        rows = _costs(service, running.pid, keys, options.seconds, options.rounds)
        quiet, busy = _flood(service, running.pid, keys[1], options.refusals, options.per_second)
    ratio = busy / quiet
    found = [
        f"{HONEST.per_second} honest lookups a second, p99: {number(quiet)} ms alone, "
        f"{number(busy)} ms while {options.refusals:,} others are refused: ratio {number(ratio)}, "
        f"{SLOWDOWN.judge(ratio)}",
        _told(owner_url, options.refusals),
    ]
    return rows, found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.access", description=__doc__)
    parser.add_argument("--refusals", type=int, default=1_000_000)
    parser.add_argument("--per-second", type=int, default=4_000, help="of the refusals")
    parser.add_argument("--seconds", type=int, default=8, help="of each of the runs")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with stack.folder(None) as work, stack.cluster(work) as running:
        rows, found = _measure(running, work, options)
        facts = machine.facts(running.superuser_url("access"), work)
    print("\n".join(f"- {line}" for line in [*facts, *found]))
    titles = ["", "shared key", "access key", "with limits", "ratio", "goal"]
    print(f"\n{table(titles, rows)}")


if __name__ == "__main__":
    main()

"""Load: credentials put in over HTTP, and wrk's runs against a service.

The names are host-0000000.example.com to host-(n-1), purpose ssh, in every service and data
set. A run counts only if every answer was a 200: wrk counts statuses above 399, and neither
service answers 1xx, 204 or 3xx.
"""

import http.client
import json
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import machine
from bench.stack import INTERNAL_KEY, Service

SCRIPT: Final = Path(__file__).with_name("load.lua")
CLIENTS: Final = 32
PURPOSE: Final = "ssh"
PASSWORD: Final = "correct horse battery staple"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run came to; CPU is in microseconds for a request."""

    requests: int
    rate: float
    p50_ms: float
    p99_ms: float
    worker_cpu: float
    database_cpu: float


@dataclass(frozen=True, slots=True)
class Load:
    """One way to load a service."""

    operation: str
    connections: int
    credentials: int
    seconds: int
    per_second: int = 0
    """Over all connections; 0 is as fast as it goes."""
    key: str = INTERNAL_KEY
    refusals: int = 0
    """Exactly so many requests, all of which have to be refused; 0 is no such bound."""
    items: int = 0
    """Of each request, where they are batches."""


def host(number: int) -> str:
    """The name of the credential of this number, as load.lua makes it too."""
    return f"host-{number:07}.example.com"


def content() -> dict[str, Any]:
    """What every credential holds."""
    return {"username": "deploy", "password": PASSWORD, "domain": "example.com"}


def store(service: Service, credentials: int) -> float:
    """Put that many credentials in, over HTTP; each answer is checked. Returns the rate."""
    started = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        shares = [range(first, credentials, CLIENTS) for first in range(CLIENTS)]
        list(pool.map(lambda share: _store_share(service.port, share), shares))
    return credentials / (time.monotonic() - started)


def _store_share(port: int, numbers: Iterable[int]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"X-Internal-Key": INTERNAL_KEY, "Content-Type": "application/json"}
    for number in numbers:
        body = {"host": host(number), "purpose": PURPOSE, **content()}
        path = "/internal/secrets/credential-upsert"
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"an upsert was answered {response.status}: {answer!r}")
    connection.close()


def run(service: Service, postmaster: int, load: Load) -> Figures:
    """Let wrk load the service; raises RuntimeError where any answer was not what it has to be."""
    workers, backends = service.workers, machine.children(postmaster)
    before = machine.cpu_seconds(workers), machine.cpu_seconds(backends)
    said = _wrk(service.url, load)
    worker_cpu = machine.cpu_seconds(workers) - before[0]
    database_cpu = machine.cpu_seconds(backends) - before[1]
    as_wanted = (said["requests"] == load.refusals) if load.refusals else said["requests"] > 0
    if said["not_ok"] != load.refusals or said["broken"] or not as_wanted:
        raise RuntimeError(f"not every request of a load was answered as it should be: {said}")
    return Figures(
        requests=said["requests"],
        rate=said["requests"] / (said["microseconds"] / 1e6),
        p50_ms=said["p50"] / 1e3,
        p99_ms=said["p99"] / 1e3,
        worker_cpu=worker_cpu / said["requests"] * 1e6,
        database_cpu=database_cpu / said["requests"] * 1e6,
    )


def _wrk(url: str, load: Load) -> dict[str, int]:
    command = [
        *("wrk", "--threads", "1", "--connections", str(load.connections)),
        *("--duration", f"{load.seconds}s", "--timeout", "10s", "--script", str(SCRIPT), url),
        *("--", load.operation, str(load.credentials), load.key),
        str(load.connections * 1_000 // load.per_second if load.per_second else 0),
        *(str(load.refusals), str(load.items)),
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    said: dict[str, int] = json.loads(output.strip().splitlines()[-1])
    return said


def medians(runs: list[Figures]) -> Figures:
    """The median of each figure; requests are added up."""
    return Figures(
        requests=sum(r.requests for r in runs),
        rate=median(r.rate for r in runs),
        p50_ms=median(r.p50_ms for r in runs),
        p99_ms=median(r.p99_ms for r in runs),
        worker_cpu=median(r.worker_cpu for r in runs),
        database_cpu=median(r.database_cpu for r in runs),
    )

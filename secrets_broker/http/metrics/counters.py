"""Counters and histograms for Prometheus, added up over all workers.

Each worker counts in files of its own (`metric_files`); /metrics adds them up. Labels come from
closed sets, and each stands at 0 from the start: nothing that a caller sent becomes a label.
"""

import os
import struct
import time
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from secrets_broker.http.metrics import metric_files
from secrets_broker.http.problems import OF_LEDGER, OTHER, of_ledger
from secrets_broker.ledger.access.judgement import RULES
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.projections.conditions import WORDS
from secrets_broker.projections.conditions.condition import CHECKPOINT_AGE, PROJECTION_DIFFERENCE

LOOKUPS = Counter("secrets_credential_lookups_total", "Credential lookups, whatever came of them.")
LOOKUP_FAILURES = Counter(
    "secrets_credential_lookup_failures_total",
    "Credential lookups that were not answered with 200.",
)
UPSERTS = Counter("secrets_credential_upserts_total", "Credentials created or updated.")
DELETES = Counter("secrets_credential_deletes_total", "Credentials deleted.")
ENCRYPTION_ERRORS = Counter(
    "secrets_encryption_errors_total", "Credentials that could not be decrypted or encrypted."
)
FORBIDDEN = Counter("secrets_requests_forbidden_total", "Requests answered with 403 forbidden.")
REFUSED = Counter(
    "secrets_requests_refused_total", "Requests refused before the API saw them: 400 to 431."
)

OUTCOMES: Final = ("ok", "not_found", "refused", "invalid", "failed", "unavailable")
_OUTCOME_OF: Final = {
    200: "ok",
    403: "refused",
    404: "not_found",
    429: "refused",
    503: "unavailable",
}
# 1 ms is a commit on a fast disk, 10 s the longest that a batch may take.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
REQUEST_SECONDS = Histogram(
    "secrets_request_duration_seconds",
    "From a request's head until its answer is ready to be sent, by what was asked for and what"
    " came of it.",
    ["operation", "outcome"],
    buckets=_SECONDS,
)
BATCH_EVENTS = Histogram(
    "secrets_batch_events",
    "Events that were committed together.",
    buckets=[2**power for power in range(10)],  # 512 is the largest batch
)
COMMIT_SECONDS = Histogram(
    "secrets_commit_duration_seconds",
    "From a batch's first INSERT until its COMMIT was answered.",
    buckets=_SECONDS,
)
QUEUE = Gauge(
    "secrets_queue_commands",
    "Commands that wait for a batch, each second; past its share of 16384 a caller gets 503.",
    multiprocess_mode="livesum",
)

CONNECTIONS = Gauge(
    "secrets_connections",
    "Connections that are open, each second.",
    multiprocess_mode="livesum",
)
CONNECTIONS_REFUSED = Counter(
    "secrets_connections_refused_total",
    "Connections, or requests through a proxy, refused because there were too many, by the cap.",
    ["cap"],
)

CAPS: Final = ("source", "all", "forwarded")

EVENT: Final = "event"
COUNTED: Final = "counted"
REFUSALS = Counter(
    "secrets_refusals_total",
    "Requests that were not allowed, by the rule; each recorded as an event, or throttled and only"
    " counted.",
    ["rule", "record"],
)
_LAST_REFUSAL = Gauge(
    "secrets_last_refusal_timestamp_seconds",
    "When a request was last refused because it was not allowed; absent before.",
    multiprocess_mode="mostrecent",  # it stays true after the worker has ended
)

UNAVAILABLE = Counter(
    "secrets_requests_unavailable_total",
    "Requests answered with 503, by the cause.",
    ["cause"],
)

CONDITIONS: Final = tuple(
    word for word in WORDS if word not in (CHECKPOINT_AGE, PROJECTION_DIFFERENCE)
)
"""The conditions that a fold over the events finds; the other two have gauges."""
WATCHED = Counter(
    "secrets_watch_conditions_total",
    "Conditions that this service found in the ledger's events.",
    ["condition"],
)

WATCH_BEHIND = Gauge(
    "secrets_watch_behind_events",
    "Events that were not yet searched for such conditions.",
    multiprocess_mode="livemostrecent",
)

# What reading raises where a file is empty, half-written or gone.
_NOT_WHOLE: Final = (struct.error, RuntimeError, ValueError, OSError)
_READINGS: Final = 5
_PAUSE_SECONDS: Final = 0.05

# `labels` costs as much as counting does, so each child is looked up once, here.
_refusals: Final = {
    (rule, record == COUNTED): REFUSALS.labels(rule, record)
    for rule in (*RULES, OTHER)
    for record in (EVENT, COUNTED)
}
_unavailable: Final = {each.cause: UNAVAILABLE.labels(each.cause) for each in OF_LEDGER.values()}
_connections: Final = {cap: CONNECTIONS_REFUSED.labels(cap) for cap in CAPS}
_conditions: Final = {word: WATCHED.labels(word) for word in CONDITIONS}


class Requests:
    """Counts requests by operations of a closed set."""

    def __init__(self, operations: Iterable[str]) -> None:
        self._children = {
            (operation, outcome): REQUEST_SECONDS.labels(operation, outcome)
            for operation in operations
            for outcome in OUTCOMES
        }

    def observe(self, operation: str, status: int, seconds: float) -> None:
        """Count one finished request; raises KeyError for another operation."""
        outcome = _OUTCOME_OF.get(status) or ("failed" if status >= 500 else "invalid")
        self._children[operation, outcome].observe(seconds)


def count(operation: str, status: int, outcome: str, times: int = 1) -> None:
    """Count a finished request, or items of a batch, in the counters without labels."""
    if outcome == "forbidden":
        FORBIDDEN.inc(times)
    if outcome == "decrypt_failed":
        ENCRYPTION_ERRORS.inc(times)
    if operation == "lookup":
        LOOKUPS.inc(times)
        if status != 200:
            LOOKUP_FAILURES.inc(times)
    elif operation == "upsert" and status == 200:
        UPSERTS.inc(times)
    elif operation == "delete" and status == 200:
        DELETES.inc(times)


def refused(rule: str, *, counted: bool, times: int = 1) -> None:
    """Count refusals; `counted` says that they are no events."""
    (_refusals.get((rule, counted)) or _refusals[OTHER, counted]).inc(times)
    _LAST_REFUSAL.set_to_current_time()


def unavailable(error: LedgerUnavailableError) -> None:
    """Count a request that gets a 503."""
    _unavailable[of_ledger(error).cause].inc()


def connection_refused(cap: str) -> None:
    """Count a connection that was refused; raises KeyError for a cap not in CAPS."""
    _connections[cap].inc()


def committed(events: int, seconds: float) -> None:
    """Count a committed batch; called by the writer."""
    BATCH_EVENTS.observe(events)
    COMMIT_SECONDS.observe(seconds)


def condition(word: str) -> None:
    """Count a condition found in the events; raises KeyError for one not in CONDITIONS."""
    _conditions[word].inc()


def folder() -> str | None:
    """The folder of the workers' metric files; None in a process without gunicorn."""
    return os.environ.get(metric_files.FOLDER)


def render() -> bytes:
    """All workers' metrics in Prometheus' text format; blocks, so not for the event loop.

    A worker that starts writes its files while others read them, without a lock: files that are
    not complete are read again.
    """
    for _ in range(_READINGS - 1):
        try:
            return _rendered()
        except _NOT_WHOLE:
            time.sleep(_PAUSE_SECONDS)
    return _rendered()


def _rendered() -> bytes:
    if folder() is None:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no types
    return generate_latest(registry)

"""Counters for Prometheus, right over all workers.

Each worker counts in a file of its own under PROMETHEUS_MULTIPROC_DIR, which gunicorn's
configuration sets before this module is imported; /metrics adds them up.
"""

import os

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

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
FORBIDDEN = Counter(
    "secrets_requests_forbidden_total", "Requests refused for a wrong or missing X-Internal-Key."
)
REFUSED = Counter(
    "secrets_requests_refused_total", "Requests refused before the API saw them: 400 to 431."
)


def count(operation: str, status: int, outcome: str, times: int = 1) -> None:
    """Count a finished request, or items of a batch that came to the same."""
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


def render() -> bytes:
    """All workers' counters in Prometheus' text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:  # one process, not under gunicorn
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no types
    return generate_latest(registry)

"""Requests, and by how much each raises the counters."""

from collections.abc import Collection

from tests.http.client import Service

LOOKUPS = "secrets_credential_lookups_total"
FAILURES = "secrets_credential_lookup_failures_total"
UPSERTS = "secrets_credential_upserts_total"
DELETES = "secrets_credential_deletes_total"
FORBIDDEN = "secrets_requests_forbidden_total"
ERRORS = "secrets_encryption_errors_total"
REFUSED = "secrets_requests_refused_total"
PLAIN = frozenset({LOOKUPS, FAILURES, UPSERTS, DELETES, FORBIDDEN, ERRORS, REFUSED})
REQUESTS = "secrets_request_duration_seconds_count"


class Counted:
    """How much the counters grew since this was made."""

    def __init__(self, service: Service, names: Collection[str] = PLAIN) -> None:
        self._service = service
        self._names = names
        self._before = service.metrics()

    def grew(self) -> dict[str, float]:
        """Those that changed, and by how much; of the plain counters, or of some metrics."""
        now = self._service.metrics()
        return {
            sample: value - self._before.get(sample, 0.0)
            for sample, value in now.items()
            if sample.partition("{")[0] in self._names
            and value != self._before.get(sample, 0.0)
            and 'operation="metrics"' not in sample  # that is this very asking
        }

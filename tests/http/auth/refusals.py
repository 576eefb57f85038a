"""What a test asks of a request that was refused: its answer, and its event."""

from tests.http.client import Service

FORBIDDEN = {"reason": "forbidden", "detail": "Invalid or missing X-Internal-Key header"}


def last(service: Service) -> dict[str, object]:
    """The newest event."""
    columns = "type, actor, authn, ip, host, purpose, error, details, reason"
    rows = service.events(columns)
    return dict(zip(columns.split(", "), rows[-1], strict=True))

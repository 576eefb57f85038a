"""A webhook: a POST for each condition, signed, and sent until it is taken."""

import ipaddress
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult

from secrets_broker.outbound.address import Endpoint, HttpUrlError, parse_url
from secrets_broker.outbound.client import HttpRequest, UnreachableError, ask_apart
from secrets_broker.projections.conditions import Condition
from secrets_broker.tools.watch.signature import WebhookKey, headers
from secrets_broker.tools.watch.sink import DeliveryError, line

SECONDS: Final = 15.0
"""For an attempt: Standard Webhooks has receivers answer within 15 to 30 seconds."""

_PASSING: Final = (408, 429)
"""Of 400 to 499, those that may be otherwise in a moment."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Whom to tell. Path and query may be secret, and show in no message."""

    endpoint: Endpoint
    target: str
    keys: tuple[WebhookKey, ...]

    @classmethod
    def parse(
        cls,
        url: str,
        keys: Sequence[WebhookKey],
        ca_file: Path | None = None,
        *,
        insecure: bool = False,
    ) -> "Webhook":
        """Read a URL; raises HttpUrlError, which does not repeat it."""
        endpoint, parts = parse_url("the webhook", url)
        if "@" in parts.netloc or parts.fragment:
            raise HttpUrlError("the URL of the webhook has host, port, path and query alone")
        if not (endpoint.tls or insecure or _is_loopback(endpoint.host)):
            raise HttpUrlError(
                "the URL of the webhook begins with https://: over http:// others could read it, "
                "and know what was noticed of them; --insecure-http allows it"
            )
        endpoint = replace(endpoint, ca_file=ca_file, timeout=SECONDS)
        try:
            if endpoint.tls:
                endpoint.context()  # so that a file that is of no use is told of now
        except OSError as error:
            raise HttpUrlError(
                f"{ca_file}: no certificates of it ({type(error).__name__})"
            ) from None
        return cls(endpoint, _target(parts), tuple(keys))

    async def send(self, condition: Condition) -> None:
        """Have it taken: any answer of 2xx; raises DeliveryError."""
        body = line(condition).encode()
        fields = {
            "Content-Type": "application/json",
            # The id of each attempt is the same, so that a receiver knows it again.
            **headers(self.keys, condition.id, int(time.time()), body),
        }
        # Its status says all: whatever follows may be long, or broken off.
        request = HttpRequest("POST", self.target, fields, body, most=None)
        try:
            answer = await ask_apart(self.endpoint, request, SECONDS)
        except UnreachableError as error:
            raise DeliveryError(f"{self.endpoint.origin}: {error}") from None
        status = answer.status
        if 200 <= status < 300:
            return
        lasting = 300 <= status < 500 and status not in _PASSING
        redirect = "; redirects are not followed" if 300 <= status < 400 else ""
        raise DeliveryError(
            f"{self.endpoint.origin} answered {status}{redirect}",
            lasting=lasting,
            retry_after=_seconds(answer.retry_after),
        )

    def close(self) -> None:
        """Each request has a connection of its own."""


def _target(parts: SplitResult) -> str:
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    if not (target.isascii() and target.isprintable()) or " " in target:
        raise HttpUrlError("the URL of the webhook is to be percent-encoded")
    return target


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _seconds(retry_after: str | None) -> int | None:
    """RFC 9110, section 10.2.3; a date is not looked at."""
    text = retry_after or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None

"""Signed messages as Standard Webhooks has them, so that any of its libraries verifies ours.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import hmac
import secrets
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from secrets_broker.ledger.encoding import from_base64
from secrets_broker.settings import SettingsError

_PREFIX: Final = "whsec_"
_BYTES: Final = range(24, 65)  # the specification's


@dataclass(frozen=True, slots=True)
class WebhookKey:
    """A shared key; its bytes show nowhere."""

    raw: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "WebhookKey":
        """Read `whsec_` and base64; raises SettingsError, which does not repeat it."""
        try:
            raw = from_base64(text.removeprefix(_PREFIX))
        except ValueError:
            raw = b""
        if not text.startswith(_PREFIX) or len(raw) not in _BYTES:
            raise SettingsError(
                "WATCH_WEBHOOK_KEY must be whsec_ and 24 to 64 bytes in base64: "
                "print one with: secrets-broker keygen"
            )
        return cls(raw)

    def sign(self, message_id: str, timestamp: int, body: bytes) -> str:
        """The signature of one message, of the scheme v1."""
        # HMAC-SHA256 (RFC 2104, FIPS 198-1), which the scheme names v1; the id and the time are
        # signed too, so that neither can be exchanged.
        signed = f"{message_id}.{timestamp}.".encode() + body
        return f"v1,{b64encode(hmac.digest(self.raw, signed, 'sha256')).decode()}"


def new_webhook_key() -> str:
    """256 random bits, as long as the hash: RFC 2104, section 3."""
    return f"{_PREFIX}{b64encode(secrets.token_bytes(32)).decode()}"


def headers(
    keys: Sequence[WebhookKey], message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """What goes with a message; of several keys a receiver needs one, while they change."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(key.sign(message_id, timestamp, body) for key in keys),
    }

"""From a row of an earlier installation to the command that takes it over.

Pure but for the keys. A row that breaks a rule raises RowError or InvalidCommandError, whose
words name the rule and never hold a value.

That installation sealed a password under the derived key itself, bound to nothing (no AAD):
base64(nonce[12] || ciphertext || tag[16]). It opens with a KEK of the keyring, and is sealed
again under a data key of its own.
"""

import ipaddress
import json
from base64 import b64decode
from bisect import bisect_right
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from secrets_broker.ledger.commands import ImportAccess, ImportCredential, parse
from secrets_broker.ledger.encoding import canonical_json, rfc3339
from secrets_broker.ledger.encryption.envelope import unseal
from secrets_broker.ledger.encryption.keyring import Kek
from secrets_broker.ledger.errors import DecryptionError
from secrets_broker.ledger.events import MAX_DETAILS_BYTES, Context
from secrets_broker.tools.import_legacy.legacy_rows import (
    MAX_MESSAGE,
    LegacyAccess,
    LegacyCredential,
)

Request = tuple[ImportCredential | ImportAccess, Context]


class RowError(Exception):
    """A row that cannot be taken over; says why, and holds no value of it."""


def credential_request(row: LegacyCredential, keks: Iterable[Kek]) -> Request:
    """Make the command of a credential; raises RowError or InvalidCommandError."""
    if row.known:
        raise RowError(
            "a credential of this name was stored here since: what is here stays as it is"
        )
    created_at = _time("created_at", row.created_at)
    updated_at = _time("updated_at", row.updated_at)
    content = {
        "password": _password(row.password_encrypted, keks),
        "username": row.username,
        "domain": row.domain,
        "additional_data": _json(row.additional_data),
    }
    details = {
        "legacy_id": row.id,
        "created_at": rfc3339(created_at) if created_at else None,
        "created_by": row.created_by,
        "updated_at": rfc3339(updated_at) if updated_at else None,
        "updated_by": row.updated_by,
    }
    fields = {
        "host": row.host,
        "purpose": row.purpose,
        "content": content,
        "occurred_at": updated_at or created_at,
        "details": details,
    }
    actor = row.created_by if row.updated_by is None else row.updated_by
    return parse(ImportCredential, fields), Context(actor=actor, authn="none")


def access_request(row: LegacyAccess) -> Request:
    """Make the command of a line of the access log; raises RowError."""
    accessed_at = _time("accessed_at", row.accessed_at)
    command = ImportAccess(
        host=row.host,
        purpose=row.purpose,
        ok=row.success is not False,
        credential_id=row.new_credential_id,
        occurred_at=accessed_at,
        details=_access_details(row),
    )
    return command, Context(actor=row.accessed_by, authn="none", ip=_normal_address(row.ip))


def _access_details(row: LegacyAccess) -> dict[str, Any]:
    details: dict[str, Any] = {
        "legacy_id": row.id,
        "legacy_credential_id": row.credential_id,
        "access_type": row.access_type,
        "error_message": row.error_message,
    }
    # What has no place of its own in an event, and only where it is out of the ordinary.
    if row.success is None:
        details["success"] = None
    if row.accessed_at is None:
        details["accessed_at"] = None
    if row.ip_network is not None:
        details["ip_network"] = row.ip_network
    return _cut(details, row.error_message) if row.error_message else details


def _cut(details: dict[str, Any], message: str) -> dict[str, Any]:
    if len(message) < MAX_MESSAGE and len(canonical_json(details)) <= MAX_DETAILS_BYTES:
        return details

    def with_first(count: int) -> dict[str, Any]:
        return {**details, "error_message": message[:count], "error_message_cut": True}

    sizes = range(len(message) + 1)
    fits = bisect_right(sizes, MAX_DETAILS_BYTES, key=lambda n: len(canonical_json(with_first(n))))
    return with_first(fits - 1)


def _time(column: str, text: str | None) -> datetime | None:
    # PostgreSQL's timestamptz has infinities, BC and years past 9999; RFC 3339 has none.
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        raise RowError(f"{column}: must be a time of the years 1 to 9999") from None


def _password(sealed: str | None, keks: Iterable[Kek]) -> str | None:
    text = "".join((sealed or "").split())  # some encoders break lines
    if not text:
        return None  # not even a nonce: that row never had one
    try:
        ciphertext = b64decode(text, validate=True)
    except ValueError:
        raise RowError("password: is not base64") from None
    for kek in keks:
        try:
            return unseal(kek.cipher, ciphertext, None).decode("utf-8")
        except DecryptionError:
            continue
        except UnicodeDecodeError:
            raise RowError("password: is not UTF-8") from None
    raise RowError(
        "password: does not open with any of the configured keys; an older one belongs into "
        "SECRETS_KMS_KEY_PREVIOUS"
    )


def _json(text: str | None) -> Any:
    try:
        value = None if text is None else json.loads(text, parse_float=_exact)
    except RecursionError:
        raise RowError("additional_data: is nested too deep") from None
    except ValueError:
        raise RowError("additional_data: has a number that a double does not hold") from None
    return {} if value is None else value


def _exact(text: str) -> float:
    number = float(text)
    # jsonb holds any decimal; what would come back as another number is not taken at all.
    if Decimal(text) != Decimal(repr(number)):
        raise ValueError
    return number


def _normal_address(text: str | None) -> str | None:
    # The form in which the service itself records a peer: IPv4 within IPv6 is IPv4.
    if text is None:
        return None
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)

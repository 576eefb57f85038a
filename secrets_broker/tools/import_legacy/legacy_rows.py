"""What is read of an earlier installation: its two tables, a row of each, and the queries.

Beside each row stands what the ledger has of it already.
"""

from dataclasses import dataclass, field
from typing import Final, Generic, LiteralString, TypeVar

from secrets_broker.ledger.event_types import IS_CHANGE

# LATERAL with LIMIT, so that each row is looked up in an index: events_imported, events_changes.
_CREDENTIALS: Final = """
    SELECT legacy.id, legacy.host, legacy.purpose, legacy.username, legacy.password_encrypted,
           legacy.domain, legacy.additional_data::text,
           legacy.created_at::timestamptz::text, legacy.updated_at::timestamptz::text,
           legacy.created_by, legacy.updated_by,
           imported.there IS NOT NULL AS imported, known.there IS NOT NULL AS known
    FROM secrets.legacy_host_credentials AS legacy
    LEFT JOIN LATERAL (
        SELECT true AS there FROM ledger.effective_events
        WHERE type = 'credential.imported' AND (details ->> 'legacy_id')::bigint = legacy.id
          AND ok LIMIT 1
    ) AS imported ON true
    LEFT JOIN LATERAL (
        SELECT true AS there FROM ledger.effective_events AS event
        WHERE event.host = legacy.host AND event.purpose = legacy.purpose
          AND __is_change__
        LIMIT 1
    ) AS known ON true
    WHERE legacy.id > %s ORDER BY legacy.id LIMIT %s
""".replace("__is_change__", IS_CHANGE)
_ACCESS: Final = """
    SELECT legacy.id, legacy.credential_id, legacy.host, legacy.purpose, legacy.accessed_by,
           legacy.access_type, legacy.success, left(legacy.error_message, %s) AS error_message,
           host(legacy.ip_address) AS ip,
           CASE WHEN masklen(legacy.ip_address)
                     < CASE family(legacy.ip_address) WHEN 4 THEN 32 ELSE 128 END
                THEN text(legacy.ip_address) END AS ip_network,
           legacy.accessed_at::timestamptz::text,
           imported.there IS NOT NULL AS imported, credential.credential_id AS new_credential_id
    FROM secrets.legacy_credential_access_log AS legacy
    LEFT JOIN LATERAL (
        SELECT true AS there FROM ledger.effective_events
        WHERE type = 'access.imported' AND (details ->> 'legacy_id')::bigint = legacy.id
        LIMIT 1
    ) AS imported ON true
    LEFT JOIN LATERAL (
        SELECT event.credential_id FROM ledger.effective_events AS event
        WHERE type = 'credential.imported'
          AND (details ->> 'legacy_id')::bigint = legacy.credential_id AND ok LIMIT 1
    ) AS credential ON true
    WHERE legacy.id > %s ORDER BY legacy.id LIMIT %s
"""
# The details of an event have less room than this; the rest need not travel.
MAX_MESSAGE: Final = 16_384


@dataclass(frozen=True, slots=True)
class LegacyCredential:
    """A row of the earlier installation's credentials; the times are text, for any can stand."""

    id: int
    host: str
    purpose: str
    username: str | None
    password_encrypted: str | None = field(repr=False)
    domain: str | None
    additional_data: str | None = field(repr=False)
    created_at: str | None
    updated_at: str | None
    created_by: str | None
    updated_by: str | None
    imported: bool
    known: bool
    """Whether the ledger knows a credential of this name, be it deleted since."""


@dataclass(frozen=True, slots=True)
class LegacyAccess:
    """A line of the earlier installation's access log."""

    id: int
    credential_id: int | None
    host: str
    purpose: str
    accessed_by: str | None
    access_type: str
    success: bool | None
    error_message: str | None
    ip: str | None
    ip_network: str | None
    accessed_at: str | None
    imported: bool
    new_credential_id: int | None


R = TypeVar("R", LegacyCredential, LegacyAccess)


@dataclass(frozen=True, slots=True)
class LegacyTable(Generic[R]):
    """A table to read: its name in schema secrets, what a row becomes, and the query."""

    name: LiteralString
    row: type[R]
    query: LiteralString
    parameters: tuple[int, ...] = ()


CREDENTIALS: Final = LegacyTable("legacy_host_credentials", LegacyCredential, _CREDENTIALS)
ACCESS: Final = LegacyTable("legacy_credential_access_log", LegacyAccess, _ACCESS, (MAX_MESSAGE,))

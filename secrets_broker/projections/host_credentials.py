"""secrets.host_credentials: the live credentials, as a lookup serves them.

Takes: the state-changing events with their bodies. Applied in the transaction of the event, so
that a lookup right after an upsert sees it. A row is a function of the credential's last
state-changing event, its body, the event that set this content (the same one, but for a change
of the data key, which names it), and the event that created the credential.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from secrets_broker.ledger.body import Body
from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.credential import Live
from secrets_broker.ledger.projection import Change, Row
from secrets_broker.ledger.round_trip import Statement

# A time has one text, which the ciphertexts are bound to: that of encoding.rfc3339.
_SELECT: Final = """
    SELECT id, version, position, data_key, username, domain, additional_data,
           password_encrypted, secret_data_encrypted,
           to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), rotate_after
    FROM secrets.host_credentials AS row
    WHERE row.host = name.host AND row.purpose = name.purpose
"""
# Everything but the body comes from the events themselves, so a row edited by hand is whole
# again after its next change, and a rebuilt row cannot differ from a live one.
_COLUMNS: Final = """ (
        id, host, purpose, username, password_encrypted, domain, additional_data,
        created_at, updated_at, created_by, updated_by,
        secret_data_encrypted, version, position, data_key, expires_at, rotate_after)
"""
_FROM_EVENTS: Final = """
    SELECT last.credential_id, last.host, last.purpose,
           body.username, body.password_encrypted, body.domain, body.additional_data,
           coalesce((first.details ->> 'created_at')::timestamptz, first.at),
           coalesce((content.details ->> 'updated_at')::timestamptz, content.at),
           CASE first.type WHEN 'credential.imported' THEN first.details ->> 'created_by'
                           ELSE first.actor END,
           CASE content.type WHEN 'credential.imported' THEN content.details ->> 'updated_by'
                             ELSE content.actor END,
           body.secret_data_encrypted, last.version, last.position, last.body ->> 'key',
           body.expires_at, body.rotate_after
    FROM jsonb_to_recordset($1::jsonb) AS body (
        position bigint, username text, password_encrypted text, domain text,
        additional_data jsonb, secret_data_encrypted text,
        expires_at timestamptz, rotate_after integer)
    JOIN ledger.events AS last ON last.position = body.position
    JOIN ledger.events AS content ON content.position =
        CASE last.type WHEN 'credential.rekeyed' THEN (last.details ->> 'content')::bigint
                       ELSE last.position END
    JOIN ledger.events AS first ON first.position = last.credential_id - 1
"""
_REPLACE: Final = """
    ON CONFLICT (host, purpose) DO UPDATE SET
        id = excluded.id, username = excluded.username,
        password_encrypted = excluded.password_encrypted, domain = excluded.domain,
        additional_data = excluded.additional_data, created_at = excluded.created_at,
        updated_at = excluded.updated_at, created_by = excluded.created_by,
        updated_by = excluded.updated_by,
        secret_data_encrypted = excluded.secret_data_encrypted, version = excluded.version,
        position = excluded.position, data_key = excluded.data_key,
        expires_at = excluded.expires_at, rotate_after = excluded.rotate_after
"""
# Counted: a rule, a trigger or a row policy may take rows away, or refuse this form.
_PUT: Final = (
    "WITH made AS (INSERT INTO secrets.host_credentials"  # noqa: S608 - our own constants
    + _COLUMNS
    + _FROM_EVENTS
    + _REPLACE
    + """RETURNING 1)
    SELECT ledger.require_rows('secrets.host_credentials', (SELECT count(*) FROM made), $2)
"""
)
REBUILD: Final = "INSERT INTO pg_temp.rebuilt" + _COLUMNS + _FROM_EVENTS
"""Puts rows beside the live ones, made by the very same expressions."""
REPLAY: Final = "SELECT made.* FROM (" + _FROM_EVENTS + ") AS made" + _COLUMNS  # noqa: S608
"""Gives rows as they were, without storing them; `$1` as for the others, a body or none of it."""
_DELETE: Final = """
    DELETE FROM secrets.host_credentials AS live
    USING jsonb_to_recordset($1::jsonb) AS gone (host text, purpose text)
    WHERE live.host = gone.host AND live.purpose = gone.purpose
"""


class HostCredentials:
    """The projection that lookups are served from."""

    select = _SELECT

    def row(self, name: Name, record: Sequence[Any]) -> Row | None:
        """Make a row of what `select` gave for a name."""
        credential_id, version, position, data_key, *body = record
        if credential_id is None:
            return None
        username, domain, additional_data, password, secret_data, expires_at, rotate_after = body
        return Row(
            name,
            Live(credential_id, version, position, data_key),
            Body(
                username=username,
                domain=domain,
                additional_data=additional_data,
                password_encrypted=password,
                secret_data_encrypted=secret_data,
                expires_at=expires_at,
                rotate_after=rotate_after,
            ),
        )

    def apply(self, changes: Sequence[Change]) -> list[Statement]:
        """Put the last change of each name into the table."""
        last = {change.name: change for change in changes}.values()
        gone = [{"host": c.name[0], "purpose": c.name[1]} for c in last if c.body is None]
        kept = [parameters(c.position, c.body) for c in last if c.body is not None]
        statements = []
        if gone:
            statements.append(Statement(_DELETE, (msgspec.json.encode(gone),)))
        if kept:
            statements.append(Statement(_PUT, (msgspec.json.encode(kept), b"%d" % len(kept))))
        return statements


def parameters(position: int, body: Body) -> dict[str, Any]:
    """What a row is made of besides the events at this position and at the credential's first."""
    return {"position": position, **msgspec.structs.asdict(body)}

"""The statements that read a ledger for its verification."""

from typing import Final

# One row for a whole range: a row for each event would cost more to send than to make. The JSON
# has no raw line feed in it. The null of jsonb, which is not SQL's, would look like that. to_char
# writes a time before the year 1 like one after it, and infinity like no time at all.
EVENTS: Final = """
    SELECT array_agg(event.position ORDER BY event.position),
           array_agg(event.leaf_hash ORDER BY event.position),
           string_agg(row_to_json(entry)::text, E'\n' ORDER BY event.position)
    FROM ledger.events AS event
    CROSS JOIN LATERAL (SELECT
        event.actor,
        CASE WHEN event.at >= '0001-01-01Z' AND event.at < 'infinity'
            THEN to_char(event.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            ELSE event.at::text END AS at,
        event.authn,
        CASE jsonb_typeof(event.body) WHEN 'null' THEN '"null"' ELSE event.body END AS body,
        event.credential_id,
        CASE jsonb_typeof(event.details) WHEN 'null' THEN '"null"' ELSE event.details END
            AS details,
        event.error, event.host, event.ip,
        CASE WHEN event.occurred_at >= '0001-01-01Z' AND event.occurred_at < 'infinity'
            THEN to_char(event.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            ELSE event.occurred_at::text END AS occurred_at,
        event.ok, event.purpose, event.reason, event.request_id, event.type, event.v,
        event.version) AS entry
    WHERE event.position >= %s AND event.position < %s
"""
NODES: Final = """
    SELECT index, hash FROM ledger.nodes WHERE level = %s AND index >= %s AND index < %s
"""
BODIES: Final = """
    SELECT position, key, ciphertext FROM ledger.bodies WHERE position >= %s AND position < %s
"""
READABLE: Final = """
    SELECT has_table_privilege('ledger.bodies', 'SELECT'),
           has_table_privilege('ledger.data_keys', 'SELECT'),
           has_table_privilege('secrets.host_credentials', 'SELECT')
"""
# No arithmetic on positions: of the largest bigint there is no successor.
SIZE: Final = """
    SELECT coalesce(max(position), -1), coalesce(min(position), 0),
           count(*) FILTER (WHERE position >= 0), pg_is_in_recovery()
    FROM ledger.events
"""
GAPS: Final = """
    SELECT before, position
    FROM (SELECT position, lag(position, 1, -1::bigint) OVER (ORDER BY position) AS before
          FROM ledger.events WHERE position >= 0) AS event
    WHERE position - %s::bigint > before ORDER BY position LIMIT %s
"""
PUBLISHED: Final = "SELECT origin, size FROM ledger.published"
# One step along the primary key for each origin, however many checkpoints it has.
ORIGINS: Final = """
    WITH RECURSIVE known AS (
        (SELECT origin FROM ledger.checkpoints ORDER BY origin LIMIT 1)
        UNION ALL
        SELECT (SELECT origin FROM ledger.checkpoints WHERE origin > known.origin
                ORDER BY origin LIMIT 1) FROM known WHERE known.origin IS NOT NULL
    ) SELECT origin, (SELECT max(size) FROM ledger.checkpoints AS c WHERE c.origin = known.origin)
    FROM known WHERE origin IS NOT NULL
"""
CHECKPOINTS: Final = """
    SELECT origin, size, coalesce(root, ''), coalesce(note, ''),
           (SELECT coalesce(string_agg(line, E'\\n' ORDER BY received_at, name), '')
            FROM ledger.cosignatures AS c
            WHERE c.origin = checkpoint.origin AND c.size = checkpoint.size)
    FROM unnest(%s::text[], %s::bigint[]) AS known (origin, largest)
    JOIN ledger.checkpoints AS checkpoint USING (origin)
    WHERE size > %s AND size <= %s AND size <= largest ORDER BY size, origin
"""
# Eight digits of base64 are six bytes, and the first four are the key's id.
COSIGNATURES_ASTRAY: Final = r"""
    SELECT count(*) FROM ledger.cosignatures AS c
    WHERE NOT EXISTS (SELECT FROM ledger.checkpoints AS kept
                      WHERE kept.origin = c.origin AND kept.size = c.size)
       OR split_part(line, ' ', 2) IS DISTINCT FROM name
       OR CASE WHEN split_part(line, ' ', 3) ~ '^[A-Za-z0-9+/]{8}'
              THEN substr(decode(left(split_part(line, ' ', 3), 8), 'base64'), 1, 4)
          END IS DISTINCT FROM key_id
"""
NODES_BEYOND: Final = """
    SELECT level, min(index) FROM ledger.nodes
    WHERE index >= %s >> (8 * level) GROUP BY level ORDER BY level
"""
BODIES_BEYOND: Final = "SELECT count(*) FROM ledger.bodies WHERE position >= %s OR position < 0"

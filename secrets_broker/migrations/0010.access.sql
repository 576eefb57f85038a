-- Access keys: who may do what follows from the events that say so; there is no table of it.
-- depends: 0009.checkpoints

-- What tells a batch, by its last entry, that the grants have changed.
CREATE INDEX events_access_keys ON ledger.events (position)
    WHERE ok AND type IN ('access_key.granted', 'access_key.changed', 'access_key.rotated',
                          'access_key.revoked');

-- What one key did, and when last. Only events of proven callers pay for it.
CREATE INDEX events_authn ON ledger.events (authn, position)
    WHERE authn LIKE 'access_key:%' OR authn LIKE 'mtls:%';

-- Refusals with the rule that says so; and, where a flood was only counted, the count.
CREATE OR REPLACE VIEW secrets.credential_access_log AS
SELECT position AS id,
       credential_id,
       host,
       purpose,
       actor AS accessed_by,
       CASE type
           WHEN 'credential.read' THEN 'read'
           WHEN 'credential.created' THEN 'create'
           WHEN 'credential.updated' THEN 'update'
           WHEN 'credential.deleted' THEN 'delete'
           WHEN 'credential.erased' THEN 'erase'
           WHEN 'access.denied' THEN details ->> 'operation'
           WHEN 'access.imported' THEN details ->> 'access_type'
           ELSE 'denied'
       END AS access_type,
       ok AND type NOT IN ('access.counting', 'access.counted') AS success,
       CASE type
           WHEN 'access.imported' THEN details ->> 'error_message'
           WHEN 'access.denied' THEN concat_ws(': ', error, details ->> 'rule')
           WHEN 'access.counting' THEN concat(
               'refusals are only counted from here on: ',
               coalesce(details ->> 'source', 'all other sources'))
           WHEN 'access.counted' THEN concat(
               details ->> 'count', ' refusals from ', details ->> 'first_at',
               ' to ', details ->> 'last_at', ': ',
               coalesce(details ->> 'source', 'all other sources'))
           ELSE error
       END AS error_message,
       ip::inet AS ip_address,
       -- The very expression that events_accessed_at indexes.
       coalesce(occurred_at, at) AS accessed_at,
       version,
       authn,
       request_id,
       reason
FROM ledger.events
WHERE type IN ('credential.read', 'credential.created', 'credential.updated',
               'credential.deleted', 'credential.erased', 'access.denied', 'access.imported',
               'access.counting', 'access.counted');

-- The grants for people, the newest state of each; a key is there only as its SHA-256.
CREATE VIEW secrets.access_keys AS
SELECT granted.details ->> 'id' AS id,
       granted.details ->> 'name' AS name,
       coalesce(rights.details -> 'rules', granted.details -> 'rules') AS rules,
       (coalesce(rights.details, granted.details) ->> 'expires_at')::timestamptz AS expires_at,
       granted.at AS granted_at,
       granted.actor AS granted_by,
       rotated.at AS rotated_at,
       (rotated.details ->> 'previous_until')::timestamptz AS previous_until,
       revoked.at AS revoked_at,
       revoked.actor AS revoked_by,
       used.at AS last_used_at
FROM ledger.events AS granted
LEFT JOIN LATERAL (
    SELECT e.details FROM ledger.events AS e
    WHERE e.ok AND e.type = 'access_key.changed'
      AND e.details ->> 'id' = granted.details ->> 'id'
    ORDER BY e.position DESC LIMIT 1
) AS rights ON true
LEFT JOIN LATERAL (
    SELECT e.details, e.at FROM ledger.events AS e
    WHERE e.ok AND e.type = 'access_key.rotated'
      AND e.details ->> 'id' = granted.details ->> 'id'
    ORDER BY e.position DESC LIMIT 1
) AS rotated ON true
LEFT JOIN LATERAL (
    SELECT e.at, e.actor FROM ledger.events AS e
    WHERE e.ok AND e.type = 'access_key.revoked'
      AND e.details ->> 'id' = granted.details ->> 'id'
    ORDER BY e.position DESC LIMIT 1
) AS revoked ON true
LEFT JOIN LATERAL (
    SELECT e.at FROM ledger.events AS e
    WHERE e.authn = 'access_key:' || (granted.details ->> 'id') AND e.authn LIKE 'access_key:%'
    ORDER BY e.position DESC LIMIT 1
) AS used ON true
WHERE granted.ok AND granted.type = 'access_key.granted';

GRANT SELECT ON secrets.access_keys TO secrets_broker_service, secrets_broker_auditor;

CREATE OR REPLACE VIEW secrets.access_keys AS
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

DROP INDEX ledger.events_certificates;

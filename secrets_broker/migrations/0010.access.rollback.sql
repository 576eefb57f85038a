DROP VIEW secrets.access_keys;

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
       END AS access_type,
       ok AS success,
       CASE type
           WHEN 'access.imported' THEN details ->> 'error_message'
           ELSE error
       END AS error_message,
       ip::inet AS ip_address,
       coalesce(occurred_at, at) AS accessed_at,
       version,
       authn,
       request_id,
       reason
FROM ledger.events
WHERE type IN ('credential.read', 'credential.created', 'credential.updated',
               'credential.deleted', 'credential.erased', 'access.denied', 'access.imported');

DROP INDEX ledger.events_authn;
DROP INDEX ledger.events_access_keys;

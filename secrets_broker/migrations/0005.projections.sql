-- What is served and what is read by people; both follow from ledger.events.
-- depends: 0004.keys

-- The live credentials. Written in the transaction of the event; `secrets-broker rebuild`
-- makes it anew.
CREATE TABLE secrets.host_credentials (
    id                    bigint      PRIMARY KEY,
    host                  text        NOT NULL,
    purpose               text        NOT NULL,
    username              text,
    password_encrypted    text,
    domain                text,
    additional_data       jsonb       NOT NULL DEFAULT '{}',
    created_at            timestamptz NOT NULL,
    updated_at            timestamptz NOT NULL,
    created_by            text,
    updated_by            text,
    secret_data_encrypted text,
    version               integer     NOT NULL,
    position              bigint      NOT NULL,
    data_key              text        NOT NULL,
    UNIQUE (host, purpose)
) WITH (fillfactor = 90);  -- room for an update on the same page, which then touches no index

-- With host behind purpose, whichever index a plan without statistics takes is a point look-up.
CREATE INDEX idx_host_credentials_purpose ON secrets.host_credentials (purpose, host);

-- Who asked for what, as a view: it cannot drift, and it keeps the trail of what was deleted.
CREATE VIEW secrets.credential_access_log AS
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
       -- The very expression that events_accessed_at indexes.
       coalesce(occurred_at, at) AS accessed_at,
       version,
       authn,
       request_id,
       reason
FROM ledger.events
WHERE type IN ('credential.read', 'credential.created', 'credential.updated',
               'credential.deleted', 'credential.erased', 'access.denied', 'access.imported');

GRANT SELECT, INSERT, UPDATE, DELETE ON secrets.host_credentials TO secrets_broker_service;
GRANT SELECT ON secrets.credential_access_log TO secrets_broker_service, secrets_broker_auditor;

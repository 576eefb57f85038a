-- Group roles that a login joins: GRANT secrets_broker_service TO my_login;
-- Roles belong to the whole cluster, so another database may have made them already.
-- depends: 0001.legacy

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['secrets_broker_service', 'secrets_broker_auditor'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- made by another database, or by another migration at this moment
        END;
    END LOOP;
END
$$;

CREATE SCHEMA ledger;
REVOKE ALL ON SCHEMA ledger, secrets FROM PUBLIC;
GRANT USAGE ON SCHEMA ledger, secrets TO secrets_broker_service, secrets_broker_auditor;

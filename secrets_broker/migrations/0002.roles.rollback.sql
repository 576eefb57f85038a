-- Only this database's rights are taken back; a role that another database still uses stays.

DROP SCHEMA ledger;
REVOKE ALL ON SCHEMA secrets FROM secrets_broker_service, secrets_broker_auditor;

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['secrets_broker_service', 'secrets_broker_auditor'] LOOP
        BEGIN
            EXECUTE format('DROP ROLE IF EXISTS %I', role_name);
        EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
            RAISE NOTICE 'role % is used elsewhere and stays', role_name;
        END;
    END LOOP;
END
$$;

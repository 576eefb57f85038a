-- Group roles that a login joins: GRANT secrets_broker_service TO my_login;
-- Roles belong to the whole cluster, so another database may have made them already.
-- depends: 0001.legacy

CREATE SCHEMA ledger;
REVOKE ALL ON SCHEMA ledger, secrets FROM PUBLIC;

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['secrets_broker_service', 'secrets_broker_auditor'] LOOP
        FOR attempt IN 1 .. 10 LOOP
            BEGIN
                -- Asked first, so that only who makes a role needs the right to make roles.
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
                    EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
                END IF;
                -- From here on a rollback in another database leaves the role alone.
                EXECUTE format('GRANT USAGE ON SCHEMA ledger, secrets TO %I', role_name);
                EXIT;
            EXCEPTION WHEN duplicate_object OR unique_violation OR undefined_object THEN
                NULL;  -- another database made it, or dropped it, at this moment: once more
            END;
        END LOOP;
    END LOOP;
END
$$;

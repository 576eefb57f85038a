-- Gives an earlier installation's tables their own names back.

DO $$
DECLARE
    plain text;
    index_name name;
BEGIN
    FOREACH plain IN ARRAY ARRAY['host_credentials', 'credential_access_log'] LOOP
        IF to_regclass(format('secrets.legacy_%s', plain)) IS NULL THEN
            CONTINUE;
        END IF;
        EXECUTE format('ALTER TABLE secrets.%I RENAME TO %I', 'legacy_' || plain, plain);
        FOR index_name IN
            SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE i.indrelid = to_regclass(format('secrets.%I', plain))
              AND c.relname LIKE 'legacy\_%'
        LOOP
            EXECUTE format('ALTER INDEX secrets.%I RENAME TO %I', index_name, substr(index_name, 8));
        END LOOP;
    END LOOP;
    BEGIN
        DROP SCHEMA secrets;
    EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
        NULL;  -- it holds an earlier installation, or belongs to somebody else
    END;
END
$$;

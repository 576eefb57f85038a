-- Tables of an earlier, plain installation stand under the names that the projections need.
-- They are set aside under other names, never dropped; `secrets-broker import-legacy` reads
-- them there.

CREATE SCHEMA IF NOT EXISTS secrets;

DO $$
DECLARE
    plain text;
    index_name name;
BEGIN
    IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'ledger') THEN
        RAISE EXCEPTION 'schema "ledger" is there: what stands under these names is in use';
    END IF;
    FOREACH plain IN ARRAY ARRAY['host_credentials', 'credential_access_log'] LOOP
        IF to_regclass(format('secrets.%I', plain)) IS NULL THEN
            CONTINUE;
        END IF;
        -- Index names are unique in a schema, so they have to make way too.
        FOR index_name IN
            SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE i.indrelid = to_regclass(format('secrets.%I', plain))
        LOOP
            EXECUTE format('ALTER INDEX secrets.%I RENAME TO %I', index_name, 'legacy_' || index_name);
        END LOOP;
        EXECUTE format('ALTER TABLE secrets.%I RENAME TO %I', plain, 'legacy_' || plain);
    END LOOP;
END
$$;

REVOKE SELECT (id, provider, state, created_at) ON ledger.keks FROM secrets_broker_auditor;
GRANT SELECT ON ledger.keks TO secrets_broker_auditor;
DROP FUNCTION ledger.register_first_kek(text, text, bytea, bytea);
DROP FUNCTION ledger.retire_keks();
DROP FUNCTION ledger.rewrap_data_keys(text[], text[], bytea[]);
DROP FUNCTION ledger.activate_kek(text);
DROP FUNCTION ledger.prepare_kek(text, text, bytea, bytea);
DROP FUNCTION ledger.appends_now(text);
DROP TRIGGER check_updated ON ledger.data_keys;
DROP TRIGGER check_inserted ON ledger.data_keys;
DROP FUNCTION ledger.check_data_keys();
ALTER TABLE ledger.data_keys ADD CONSTRAINT data_keys_kek_fkey
    FOREIGN KEY (kek) REFERENCES ledger.keks (id);
DROP TRIGGER never_deleted ON ledger.keks;
DROP TRIGGER check_change ON ledger.keks;
DROP FUNCTION ledger.check_kek_change();

UPDATE ledger.keks SET state = 'retired' WHERE state = 'prepared';
ALTER TABLE ledger.keks DROP CONSTRAINT keks_state_check;
ALTER TABLE ledger.keks ADD CONSTRAINT keks_state_check
    CHECK (state IN ('active', 'retiring', 'retired'));

CREATE FUNCTION ledger.register_first_kek(new_id text, new_provider text, new_canary bytea)
    RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM ledger.lock FOR UPDATE;
    IF EXISTS (SELECT FROM ledger.keks) THEN
        RETURN false;
    END IF;
    INSERT INTO ledger.keks (id, provider, state, canary)
    VALUES (new_id, new_provider, 'active', new_canary);
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION ledger.register_first_kek(text, text, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.register_first_kek(text, text, bytea) TO secrets_broker_service;

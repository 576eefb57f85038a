-- What is encrypted, and the keys: KEK -> data key (DEK) -> body and password.
-- depends: 0003.events

-- A body stands apart from its event, so that it can be destroyed while the tree verifies.
CREATE TABLE ledger.bodies (
    position   bigint PRIMARY KEY,
    key        text   NOT NULL,
    ciphertext bytea  NOT NULL
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.bodies
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.bodies ENABLE ALWAYS TRIGGER append_only;

CREATE TABLE ledger.keks (
    id         text        PRIMARY KEY,
    provider   text        NOT NULL,
    state      text        NOT NULL CHECK (state IN ('active', 'retiring', 'retired')),
    canary     bytea       NOT NULL,
    wrapped    bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE UNIQUE INDEX keks_one_active ON ledger.keks ((true)) WHERE state = 'active';

CREATE TABLE ledger.data_keys (
    id            text   PRIMARY KEY,
    credential_id bigint NOT NULL,
    kek           text   NOT NULL REFERENCES ledger.keks (id),
    wrapped       bytea  NOT NULL
);

CREATE INDEX data_keys_credential_id ON ledger.data_keys (credential_id);

-- A service may name the first KEK of an empty ledger, and no other: from then on only a
-- rotation moves the active mark.
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
GRANT SELECT, INSERT ON ledger.bodies, ledger.data_keys TO secrets_broker_service;
GRANT SELECT ON ledger.keks TO secrets_broker_service, secrets_broker_auditor;

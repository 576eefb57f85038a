-- Rotation of the KEK. The active mark moves under the ledger's lock and with its event, so that
-- no process, however late, wraps a new data key under a KEK that is on its way out.
-- depends: 0005.projections

-- prepared: made known, so that services can fetch it before anything is wrapped under it.
ALTER TABLE ledger.keks DROP CONSTRAINT keks_state_check;
ALTER TABLE ledger.keks ADD CONSTRAINT keks_state_check
    CHECK (state IN ('prepared', 'active', 'retiring', 'retired'));

-- Who audits sees which KEKs there were, and no wrapped one.
REVOKE SELECT ON ledger.keks FROM secrets_broker_auditor;
GRANT SELECT (id, provider, state, created_at) ON ledger.keks TO secrets_broker_auditor;

-- NIST SP 800-57 part 1, section 7: a key that was deactivated protects nothing again.
CREATE FUNCTION ledger.check_kek_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF (OLD.id, OLD.provider, OLD.canary, OLD.created_at)
       IS DISTINCT FROM (NEW.id, NEW.provider, NEW.canary, NEW.created_at)
       OR (OLD.state, NEW.state) NOT IN (('prepared', 'active'), ('prepared', 'retired'),
                                         ('active', 'retiring'), ('retiring', 'active'),
                                         ('retiring', 'retired'))
       OR (NEW.wrapped IS DISTINCT FROM OLD.wrapped
           AND NOT (NEW.state = 'retired' AND NEW.wrapped IS NULL)) THEN
        RAISE EXCEPTION 'KEK % cannot go from % to %', OLD.id, OLD.state, NEW.state
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER check_change BEFORE UPDATE ON ledger.keks
    FOR EACH ROW EXECUTE FUNCTION ledger.check_kek_change();
ALTER TABLE ledger.keks ENABLE ALWAYS TRIGGER check_change;
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON ledger.keks
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.keks ENABLE ALWAYS TRIGGER never_deleted;

-- A data key comes under the active KEK, or is re-wrapped under it; there is no other way. As one
-- check a statement it says more than a foreign key, which would cost as much for each row as its
-- re-wrapping. No KEK is ever deleted, so what is named stays there.
ALTER TABLE ledger.data_keys DROP CONSTRAINT data_keys_kek_fkey;
CREATE FUNCTION ledger.check_data_keys() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF EXISTS (SELECT FROM fresh WHERE fresh.kek IS DISTINCT FROM
               (SELECT keks.id FROM ledger.keks WHERE state = 'active')) THEN
        RAISE EXCEPTION 'a data key is wrapped under the active KEK, and no other'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER check_inserted AFTER INSERT ON ledger.data_keys
    REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.check_data_keys();
CREATE TRIGGER check_updated AFTER UPDATE ON ledger.data_keys
    REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.check_data_keys();
ALTER TABLE ledger.data_keys ENABLE ALWAYS TRIGGER check_inserted;
ALTER TABLE ledger.data_keys ENABLE ALWAYS TRIGGER check_updated;
-- Room on each page for a re-wrapped row, which then touches no index.
ALTER TABLE ledger.data_keys SET (fillfactor = 85);

-- Whether this very transaction has appended an event of a type as the ledger's last.
CREATE FUNCTION ledger.appends_now(event_type text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT coalesce((
        SELECT e.type = event_type
               AND e.xmin = pg_current_xact_id()::xid
        FROM ledger.events AS e ORDER BY e.position DESC LIMIT 1), false)
$$;

CREATE FUNCTION ledger.prepare_kek(
    new_id text, new_provider text, new_canary bytea, new_wrapped bytea
) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO ledger.keks (id, provider, state, canary, wrapped)
    VALUES (new_id, new_provider, 'prepared', new_canary, new_wrapped)
    ON CONFLICT (id) DO NOTHING
$$;

CREATE FUNCTION ledger.activate_kek(new_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM ledger.lock FOR UPDATE;
    IF NOT ledger.appends_now('key.rotation_started') THEN
        RAISE EXCEPTION 'the active KEK moves only with its key.rotation_started event'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    UPDATE ledger.keks SET state = 'retiring' WHERE state = 'active';
    UPDATE ledger.keks SET state = 'active' WHERE id = new_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no KEK %', new_id USING ERRCODE = 'no_data_found';
    END IF;
END
$$;

-- A key is re-wrapped only from the KEK that it was read under: never twice, never backwards.
CREATE FUNCTION ledger.rewrap_data_keys(ids text[], from_keks text[], new_wrapped bytea[])
    RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH done AS (
        UPDATE ledger.data_keys AS data_key
           SET kek = active.id, wrapped = given.wrapped
          FROM unnest(ids, from_keks, new_wrapped) AS given (id, kek, wrapped),
               (SELECT keks.id FROM ledger.keks WHERE state = 'active') AS active
         WHERE data_key.id = given.id AND data_key.kek = given.kek
     RETURNING 1)
    SELECT count(*) FROM done
$$;

-- What no data key is wrapped under goes; a KMS's wrapped form of it goes with it.
CREATE FUNCTION ledger.retire_keks() RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM ledger.lock FOR UPDATE;
    IF NOT ledger.appends_now('key.rotated') THEN
        RAISE EXCEPTION 'a KEK is retired only with its key.rotated event'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN QUERY
        UPDATE ledger.keks SET state = 'retired', wrapped = NULL
        WHERE state IN ('prepared', 'retiring')
          AND NOT EXISTS (SELECT FROM ledger.data_keys WHERE data_keys.kek = keks.id)
        RETURNING keks.id;
END
$$;

DROP FUNCTION ledger.register_first_kek(text, text, bytea);
CREATE FUNCTION ledger.register_first_kek(
    new_id text, new_provider text, new_canary bytea, new_wrapped bytea
) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM ledger.lock FOR UPDATE;
    IF EXISTS (SELECT FROM ledger.keks) THEN
        RETURN false;
    END IF;
    INSERT INTO ledger.keks (id, provider, state, canary, wrapped)
    VALUES (new_id, new_provider, 'active', new_canary, new_wrapped);
    RETURN true;
END
$$;

REVOKE ALL ON FUNCTION
    ledger.prepare_kek(text, text, bytea, bytea), ledger.activate_kek(text),
    ledger.rewrap_data_keys(text[], text[], bytea[]), ledger.retire_keks(),
    ledger.register_first_kek(text, text, bytea, bytea)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.register_first_kek(text, text, bytea, bytea)
    TO secrets_broker_service;

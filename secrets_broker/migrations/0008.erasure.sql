-- Erasing for good: a data key and the bodies under it can be destroyed, together with the
-- credential.erased event that names the key, and in no other way.
-- depends: 0007.expiry

-- The data keys that this transaction's own credential.erased events name. Its events are the
-- last ones, since no other transaction can append before this one ends. xids come round again:
-- what an old event with the same xid allows is what it allowed then, and that is destroyed
-- already. An event that was appended under a savepoint has another xid and allows nothing.
CREATE FUNCTION ledger.erased_here() RETURNS SETOF text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    recent record;
BEGIN
    FOR recent IN
        SELECT e.xmin, e.ok, e.type, e.details FROM ledger.events AS e ORDER BY e.position DESC
    LOOP
        EXIT WHEN recent.xmin <> pg_current_xact_id()::xid;
        IF recent.ok AND recent.type = 'credential.erased'
           AND jsonb_typeof(recent.details -> 'data_keys') = 'array' THEN
            RETURN QUERY SELECT jsonb_array_elements_text(recent.details -> 'data_keys');
        END IF;
    END LOOP;
END
$$;

-- Bodies: never changed, and deleted only with their erasure. A trigger sees what a statement
-- deletes only for DELETE alone, so this is a second one beside append_only.
CREATE FUNCTION ledger.check_destroyed_bodies() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- EXCEPT takes NULL for a value like any other: no null among the named keys lets all pass.
    IF EXISTS (SELECT key FROM destroyed EXCEPT SELECT * FROM ledger.erased_here()) THEN
        RAISE EXCEPTION 'ledger.bodies is append-only: DELETE is refused without a '
                        'credential.erased event of this transaction that names the data key'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NULL;
END
$$;

DROP TRIGGER append_only ON ledger.bodies;
CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON ledger.bodies
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.bodies ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER destroyed_with_event AFTER DELETE ON ledger.bodies
    REFERENCING OLD TABLE AS destroyed
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.check_destroyed_bodies();
ALTER TABLE ledger.bodies ENABLE ALWAYS TRIGGER destroyed_with_event;

-- Data keys: the same for DELETE. Wrapping one anew changes kek and wrapped; its id and its
-- credential are what it is bound to, and stay.
CREATE FUNCTION ledger.check_destroyed_data_keys() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT id FROM destroyed EXCEPT SELECT * FROM ledger.erased_here()) THEN
        RAISE EXCEPTION 'ledger.data_keys: DELETE is refused without a '
                        'credential.erased event of this transaction that names the key'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION ledger.refuse_another_key() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'ledger.data_keys: a key keeps its id and its credential'
        USING ERRCODE = 'object_not_in_prerequisite_state';
END
$$;

CREATE TRIGGER never_emptied BEFORE TRUNCATE ON ledger.data_keys
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.data_keys ENABLE ALWAYS TRIGGER never_emptied;
CREATE TRIGGER destroyed_with_event AFTER DELETE ON ledger.data_keys
    REFERENCING OLD TABLE AS destroyed
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.check_destroyed_data_keys();
ALTER TABLE ledger.data_keys ENABLE ALWAYS TRIGGER destroyed_with_event;
CREATE TRIGGER same_key AFTER UPDATE ON ledger.data_keys
    FOR EACH ROW WHEN (OLD.id IS DISTINCT FROM NEW.id
                       OR OLD.credential_id IS DISTINCT FROM NEW.credential_id)
    EXECUTE FUNCTION ledger.refuse_another_key();
ALTER TABLE ledger.data_keys ENABLE ALWAYS TRIGGER same_key;

-- Destroys what the erasure at this position says, and nothing else: it takes no key from its
-- caller. Where the bodies are not as many as the event says, nothing is destroyed.
CREATE FUNCTION ledger.destroy(erasure bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    erased ledger.events%ROWTYPE;
    named text[];
    body_count bigint;
BEGIN
    SELECT * INTO STRICT erased FROM ledger.events WHERE position = erasure;
    named := ARRAY(SELECT jsonb_array_elements_text(erased.details -> 'data_keys'));
    -- By way of the name's changes, which are indexed: bodies are not indexed by key.
    DELETE FROM ledger.bodies AS body
    USING ledger.events AS change
    WHERE change.host = coalesce(erased.host, erased.details ->> 'host')
      AND change.purpose = coalesce(erased.purpose, erased.details ->> 'purpose')
      AND change.ok
      AND change.type IN ('credential.created', 'credential.updated', 'credential.deleted',
                          'credential.erased', 'credential.rekeyed', 'credential.imported')
      AND change.body ->> 'key' = ANY (named)
      AND body.position = change.position AND body.key = change.body ->> 'key';
    GET DIAGNOSTICS body_count = ROW_COUNT;
    IF body_count IS DISTINCT FROM (erased.details ->> 'bodies')::bigint THEN
        RAISE EXCEPTION 'the erasure at % does not say what is there to be destroyed', erasure
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    DELETE FROM ledger.data_keys WHERE id = ANY (named);
END
$$;

-- The owner's, whom the erase command runs as; the service's role may not.
REVOKE ALL ON FUNCTION ledger.erased_here(), ledger.destroy(bigint) FROM PUBLIC;

-- Events that only a holder of the KEK can make: a MAC beside each one, and what it is made with.
-- The database cannot tell a right MAC from a wrong one. It holds what it can: no event without a
-- MAC once they are demanded, no key and no disowning without its event, no time ahead of its own.
-- depends: 0012.search_path

ALTER TABLE ledger.events ADD COLUMN mac bytea
    CONSTRAINT events_mac_is_of_sha256 CHECK (octet_length(mac) = 32);

COMMENT ON COLUMN ledger.events.mac IS
    'HMAC-SHA256 under an event key; no part of the entry. Null before ledger.authenticated.';

-- What says which events are believed, and who may do what. A batch looks at the last one.
CREATE INDEX events_control ON ledger.events (position)
    WHERE ok AND type IN ('access_key.granted', 'access_key.changed', 'access_key.rotated',
                          'access_key.revoked', 'ledger.authenticated', 'ledger.disowned',
                          'ledger.restored');

-- Event keys: wrapped as data keys are, in force from the position of the event that names them.
CREATE TABLE ledger.event_keys (
    id            text   PRIMARY KEY,
    kek           text   NOT NULL,
    wrapped       bytea  NOT NULL,
    from_position bigint NOT NULL UNIQUE CHECK (from_position >= 0)
);

CREATE TRIGGER check_inserted AFTER INSERT ON ledger.event_keys
    REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.check_data_keys();
CREATE TRIGGER check_updated AFTER UPDATE ON ledger.event_keys
    REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.check_data_keys();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON ledger.event_keys
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER same_key AFTER UPDATE ON ledger.event_keys
    FOR EACH ROW WHEN (OLD.id IS DISTINCT FROM NEW.id
                       OR OLD.from_position IS DISTINCT FROM NEW.from_position)
    EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.event_keys ENABLE ALWAYS TRIGGER check_inserted;
ALTER TABLE ledger.event_keys ENABLE ALWAYS TRIGGER check_updated;
ALTER TABLE ledger.event_keys ENABLE ALWAYS TRIGGER never_deleted;
ALTER TABLE ledger.event_keys ENABLE ALWAYS TRIGGER same_key;

-- A key comes in only here, in the transaction of the event that names it. Whoever may append may
-- call it: a key that was not wrapped under the KEK is believed by nobody.
CREATE FUNCTION ledger.begin_event_key(
    new_id text, new_kek text, new_wrapped bytea, new_from bigint
) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM ledger.events AS e
        WHERE e.position = new_from AND e.xmin = pg_current_xact_id()::xid AND e.ok
          AND e.type IN ('ledger.authenticated', 'ledger.restored')
          AND e.details ->> 'event_key' = new_id
    ) THEN
        RAISE EXCEPTION 'an event key comes only with the event that names it'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO ledger.event_keys (id, kek, wrapped, from_position)
    VALUES (new_id, new_kek, new_wrapped, new_from);
END
$$;

-- As ledger.rewrap_data_keys: only from the KEK that the key was read under.
CREATE FUNCTION ledger.rewrap_event_keys(ids text[], from_keks text[], new_wrapped bytea[])
    RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH done AS (
        UPDATE ledger.event_keys AS event_key
           SET kek = active.id, wrapped = given.wrapped
          FROM unnest(ids, from_keks, new_wrapped) AS given (id, kek, wrapped),
               (SELECT keks.id FROM ledger.keks WHERE state = 'active') AS active
         WHERE event_key.id = given.id AND event_key.kek = given.kek
     RETURNING 1)
    SELECT count(*) FROM done
$$;

-- What an event key is wrapped under stays, too.
CREATE OR REPLACE FUNCTION ledger.retire_keks() RETURNS SETOF text
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
          AND NOT EXISTS (SELECT FROM ledger.event_keys WHERE event_keys.kek = keks.id)
        RETURNING keks.id;
END
$$;

-- Disowned: positions whose events were not made with the KEK. They stay in the log as evidence,
-- and every projection and every question leaves them out.
CREATE TABLE ledger.disowned (
    first_position bigint PRIMARY KEY CHECK (first_position >= 0),
    last_position  bigint NOT NULL CHECK (last_position >= first_position),
    by_position    bigint NOT NULL CHECK (by_position > last_position)
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.disowned
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.disowned ENABLE ALWAYS TRIGGER append_only;

-- The owner's, whom the disown command runs as; it takes the ranges from the event itself.
CREATE FUNCTION ledger.disown(by_event bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM ledger.events AS e
        WHERE e.position = by_event AND e.xmin = pg_current_xact_id()::xid AND e.ok
          AND e.type = 'ledger.disowned'
    ) THEN
        RAISE EXCEPTION 'events are disowned only with their ledger.disowned event'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO ledger.disowned (first_position, last_position, by_position)
    SELECT (range ->> 0)::bigint, (range ->> 1)::bigint, by_event
    FROM ledger.events AS e, jsonb_array_elements(e.details -> 'ranges') AS range
    WHERE e.position = by_event;
END
$$;

CREATE FUNCTION ledger.is_disowned(which bigint) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM ledger.disowned AS d
                   WHERE which BETWEEN d.first_position AND d.last_position)
$$;

-- What folds, projections and questions read.
CREATE VIEW ledger.effective_events AS
SELECT e.* FROM ledger.events AS e
WHERE NOT EXISTS (SELECT FROM ledger.disowned AS d
                  WHERE e.position BETWEEN d.first_position AND d.last_position);

-- Positions have no gap. Time does not run backwards, and is never more than five minutes ahead of
-- this machine's clock: so much may a standby's clock be behind that takes over. Once there is an
-- event key no event comes without a MAC, and a ledger that begins here begins with one.
CREATE OR REPLACE FUNCTION ledger.check_append() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first_position bigint;
    last_position bigint;
    earliest timestamptz;
    latest timestamptz;
    appended_count bigint;
    ran_backwards boolean;
    unauthenticated boolean;
    before_at timestamptz;
BEGIN
    SELECT min(a.position), max(a.position), min(a.at), max(a.at), count(*),
           bool_or(a.at < a.previous_at), bool_or(a.mac IS NULL)
      INTO first_position, last_position, earliest, latest, appended_count, ran_backwards,
           unauthenticated
      FROM (SELECT position, at, mac, lag(at) OVER (ORDER BY position) AS previous_at
              FROM appended) AS a;
    IF appended_count = 0 THEN
        RETURN NULL;
    END IF;
    SELECT e.at INTO before_at FROM ledger.events AS e WHERE e.position = first_position - 1;
    IF last_position - first_position + 1 <> appended_count
       OR (first_position > 0 AND before_at IS NULL) THEN
        RAISE EXCEPTION 'positions must follow each other without a gap'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF ledger.is_disowned(first_position - 1)
       OR EXISTS (SELECT FROM appended AS a WHERE a.type = 'ledger.disowned') THEN
        -- A disowned event moves no time, nor does one that is being disowned.
        SELECT e.at INTO before_at FROM ledger.effective_events AS e
        WHERE e.position < first_position AND NOT EXISTS (
            SELECT FROM appended AS a, jsonb_array_elements(a.details -> 'ranges') AS range
            WHERE a.type = 'ledger.disowned'
              AND e.position BETWEEN (range ->> 0)::bigint AND (range ->> 1)::bigint)
        ORDER BY e.position DESC LIMIT 1;
    END IF;
    IF ran_backwards OR earliest < before_at THEN
        RAISE EXCEPTION 'an event cannot be earlier than the one before it'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF latest > clock_timestamp() + interval '5 minutes' THEN
        RAISE EXCEPTION 'an event cannot be more than five minutes ahead of the clock'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- What no reader could read would end every audit for good, disowned or not: it stays.
    IF EXISTS (
        SELECT FROM appended AS a
        WHERE octet_length(a.body::text) > 1024 OR octet_length(a.details::text) > 32768
           OR jsonb_path_exists(a.details, '$.**{65}')
           OR jsonb_path_exists(a.details, '$.** ? (@.type() == "number"
               && (@ > 9007199254740991 || @ < -9007199254740991))')) THEN
        RAISE EXCEPTION 'an event''s details are too large, too deep, or have too large a number'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF first_position = 0 AND NOT EXISTS (
        SELECT FROM appended AS a
        WHERE a.position = 0 AND a.type = 'ledger.authenticated' AND a.mac IS NOT NULL) THEN
        RAISE EXCEPTION 'a ledger begins with ledger.authenticated'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF unauthenticated AND EXISTS (SELECT FROM ledger.event_keys) THEN
        RAISE EXCEPTION 'an event needs a MAC: this ledger is authenticated'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NULL;
END
$$;

-- A node is the hash of what stands below it, all of which is there: RFC 9162, section 2.1.1.
CREATE FUNCTION ledger.check_nodes() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node record;
    hashes bytea;
BEGIN
    FOR node IN SELECT level, index, hash FROM fresh ORDER BY level, index LOOP
        IF node.level = 1 THEN
            SELECT string_agg(e.leaf_hash, ''::bytea ORDER BY e.position) INTO hashes
            FROM ledger.events AS e
            WHERE e.position >= node.index * 256 AND e.position < (node.index + 1) * 256;
        ELSE
            SELECT string_agg(n.hash, ''::bytea ORDER BY n.index) INTO hashes
            FROM ledger.nodes AS n
            WHERE n.level = node.level - 1
              AND n.index >= node.index * 256 AND n.index < (node.index + 1) * 256;
        END IF;
        IF octet_length(hashes) IS DISTINCT FROM 256 * 32 THEN
            RAISE EXCEPTION 'node (%, %) has not all of its 256 below it', node.level, node.index
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        WHILE octet_length(hashes) > 32 LOOP
            SELECT string_agg(sha256('\x01'::bytea || substr(hashes, 64 * pair + 1, 64)),
                              ''::bytea ORDER BY pair)
              INTO hashes FROM generate_series(0, octet_length(hashes) / 64 - 1) AS pair;
        END LOOP;
        IF hashes IS DISTINCT FROM node.hash THEN
            RAISE EXCEPTION 'node (%, %) is not the hash of what is below it',
                node.level, node.index
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

CREATE TRIGGER check_inserted AFTER INSERT ON ledger.nodes
    REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.check_nodes();
ALTER TABLE ledger.nodes ENABLE ALWAYS TRIGGER check_inserted;

-- A body comes with its event, and is the one that the event names.
CREATE FUNCTION ledger.check_bodies() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM fresh LEFT JOIN ledger.events AS e ON e.position = fresh.position
        WHERE e.body ->> 'key' IS DISTINCT FROM fresh.key
           OR e.body ->> 'sha256' IS DISTINCT FROM encode(sha256(fresh.ciphertext), 'base64')
    ) THEN
        RAISE EXCEPTION 'a body comes only with the event that names it'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER check_inserted AFTER INSERT ON ledger.bodies
    REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.check_bodies();
ALTER TABLE ledger.bodies ENABLE ALWAYS TRIGGER check_inserted;

-- A checkpoint is of events that are there: none takes the place of one to come.
CREATE FUNCTION ledger.check_checkpoints() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM fresh WHERE fresh.size > (
            SELECT coalesce(max(e.position) + 1, 0) FROM ledger.events AS e)) THEN
        RAISE EXCEPTION 'a checkpoint cannot be of more events than there are'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER check_inserted AFTER INSERT ON ledger.checkpoints
    REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.check_checkpoints();
ALTER TABLE ledger.checkpoints ENABLE ALWAYS TRIGGER check_inserted;

-- Rows are counted before COMMIT: a rule, a trigger or a row policy may have taken some away.
CREATE FUNCTION ledger.require_rows(relation text, stored bigint, given bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF stored IS DISTINCT FROM given THEN
        RAISE EXCEPTION '% took % of % rows', relation, stored, given
            USING ERRCODE = 'data_corrupted';
    END IF;
END
$$;

-- Reads back what an append wrote. Positions at and above its first are its own, since it holds
-- the lock; its last MAC stands for all of them, since each covers the one before. ONLY: a table
-- that inherits from one of ours has none of its guards.
CREATE FUNCTION ledger.require_appended(
    first_position bigint, event_count bigint, last_mac bytea, body_count bigint,
    data_key_ids text[]
) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ends bigint := first_position + event_count;
BEGIN
    PERFORM ledger.require_rows('ledger.events', (
        SELECT count(*) FROM ONLY ledger.events AS e
        WHERE e.position >= first_position), event_count);
    PERFORM ledger.require_rows('the last of ledger.events', (
        SELECT count(*) FROM ONLY ledger.events AS e
        WHERE e.position = ends - 1 AND e.mac IS NOT DISTINCT FROM last_mac), 1);
    IF body_count > 0 THEN
        PERFORM ledger.require_rows('ledger.bodies', (
            SELECT count(*) FROM ONLY ledger.bodies AS b WHERE b.position >= first_position),
            body_count);
    END IF;
    IF data_key_ids <> '{}' THEN
        PERFORM ledger.require_rows('ledger.data_keys', (
            SELECT count(*) FROM ONLY ledger.data_keys AS k WHERE k.id = ANY (data_key_ids)),
            cardinality(data_key_ids));
    END IF;
    IF first_position >> 8 < ends >> 8 THEN
        PERFORM ledger.require_rows('ledger.nodes', (
            SELECT count(*) FROM generate_series(1, 7) AS height JOIN ONLY ledger.nodes AS n
            ON n.level = height AND n.index >= first_position >> 8 * height
               AND n.index < ends >> 8 * height), (
            SELECT sum((ends >> 8 * height) - (first_position >> 8 * height))::bigint
            FROM generate_series(1, 7) AS height));
    END IF;
END
$$;

-- Disowned events are shown as such: nothing that they say of an access came of it.
CREATE OR REPLACE VIEW secrets.credential_access_log AS
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
           ELSE 'denied'
       END AS access_type,
       ok AND type NOT IN ('access.counting', 'access.counted')
          AND NOT EXISTS (
              SELECT FROM ledger.disowned AS d
              WHERE events.position BETWEEN d.first_position AND d.last_position) AS success,
       CASE
           WHEN EXISTS (
              SELECT FROM ledger.disowned AS d
              WHERE events.position BETWEEN d.first_position AND d.last_position) THEN 'disowned'
           WHEN type = 'access.imported' THEN details ->> 'error_message'
           WHEN type = 'access.denied' THEN concat_ws(': ', error, details ->> 'rule')
           WHEN type = 'access.counting' THEN concat(
               'refusals are only counted from here on: ',
               coalesce(details ->> 'source', 'all other sources'))
           WHEN type = 'access.counted' THEN concat(
               details ->> 'count', ' refusals from ', details ->> 'first_at',
               ' to ', details ->> 'last_at', ': ',
               coalesce(details ->> 'source', 'all other sources'))
           ELSE error
       END AS error_message,
       ip::inet AS ip_address,
       -- The very expression that events_accessed_at indexes.
       coalesce(occurred_at, at) AS accessed_at,
       version,
       authn,
       request_id,
       reason
FROM ledger.events AS events
WHERE type IN ('credential.read', 'credential.created', 'credential.updated',
               'credential.deleted', 'credential.erased', 'access.denied', 'access.imported',
               'access.counting', 'access.counted');

-- Nor is a grant in force that was not made with the keys.
CREATE OR REPLACE VIEW secrets.access_keys AS
SELECT granted.details ->> 'id' AS id,
       granted.details ->> 'name' AS name,
       coalesce(rights.details -> 'rules', granted.details -> 'rules') AS rules,
       (coalesce(rights.details, granted.details) ->> 'expires_at')::timestamptz AS expires_at,
       granted.at AS granted_at,
       granted.actor AS granted_by,
       rotated.at AS rotated_at,
       (rotated.details ->> 'previous_until')::timestamptz AS previous_until,
       revoked.at AS revoked_at,
       revoked.actor AS revoked_by,
       coalesce(used.at, shown.at) AS last_used_at
FROM ledger.effective_events AS granted
LEFT JOIN LATERAL (
    SELECT e.details FROM ledger.effective_events AS e
    WHERE e.ok AND e.type = 'access_key.changed'
      AND e.details ->> 'id' = granted.details ->> 'id'
    ORDER BY e.position DESC LIMIT 1
) AS rights ON true
LEFT JOIN LATERAL (
    SELECT e.details, e.at FROM ledger.effective_events AS e
    WHERE e.ok AND e.type = 'access_key.rotated'
      AND e.details ->> 'id' = granted.details ->> 'id'
    ORDER BY e.position DESC LIMIT 1
) AS rotated ON true
LEFT JOIN LATERAL (
    SELECT e.at, e.actor, e.position FROM ledger.effective_events AS e
    WHERE e.ok AND e.type = 'access_key.revoked'
      AND e.details ->> 'id' = granted.details ->> 'id'
    ORDER BY e.position DESC LIMIT 1
) AS revoked ON true
LEFT JOIN LATERAL (
    SELECT e.at FROM ledger.effective_events AS e
    WHERE e.authn = 'access_key:' || (granted.details ->> 'id') AND e.authn LIKE 'access_key:%'
    ORDER BY e.position DESC LIMIT 1
) AS used ON true
LEFT JOIN LATERAL (
    SELECT e.at FROM ledger.effective_events AS e
    WHERE granted.details @> '{"certificate": true}'
      AND e.authn LIKE 'mtls:%' AND e.actor = granted.details ->> 'name'
      AND e.position > granted.position AND e.position < coalesce(revoked.position, e.position + 1)
    ORDER BY e.position DESC LIMIT 1
) AS shown ON true
WHERE granted.ok AND granted.type = 'access_key.granted';

REVOKE ALL ON FUNCTION
    ledger.begin_event_key(text, text, bytea, bigint),
    ledger.rewrap_event_keys(text[], text[], bytea[]), ledger.disown(bigint)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.begin_event_key(text, text, bytea, bigint)
    TO secrets_broker_service;
GRANT SELECT ON ledger.event_keys TO secrets_broker_service;
GRANT SELECT (id, kek, from_position) ON ledger.event_keys TO secrets_broker_auditor;
GRANT SELECT ON ledger.disowned, ledger.effective_events
    TO secrets_broker_service, secrets_broker_auditor;

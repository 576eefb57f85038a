-- The ledger itself: one row an event, a column for each key of its entry, and its leaf hash.
-- Columns of fixed width come first, so that no padding is stored.
-- depends: 0002.roles

CREATE TABLE ledger.events (
    position      bigint      PRIMARY KEY CHECK (position >= 0),
    at            timestamptz NOT NULL,
    occurred_at   timestamptz,
    credential_id bigint,
    version       integer     CHECK (version >= 1),
    v             smallint    NOT NULL CHECK (v = 1),
    ok            boolean     NOT NULL,
    leaf_hash     bytea       NOT NULL CHECK (octet_length(leaf_hash) = 32),
    type          text        NOT NULL CHECK (char_length(type) <= 64),
    actor         text        CHECK (char_length(actor) <= 100),
    authn         text        NOT NULL CHECK (char_length(authn) <= 200),
    -- One value that does not cast would break credential_access_log for ever.
    ip            text        CHECK (ip IS NULL OR ip::inet IS NOT NULL),
    request_id    text        CHECK (char_length(request_id) <= 100),
    reason        text        CHECK (char_length(reason) <= 500),
    host          text        CHECK (char_length(host) <= 255),
    purpose       text        CHECK (char_length(purpose) <= 50),
    error         text        CHECK (char_length(error) <= 64),
    details       jsonb       CHECK (jsonb_typeof(details) = 'object'),
    -- coalesce: a CHECK that comes to NULL counts as passed.
    body          jsonb       CHECK (body IS NULL OR coalesce(
        jsonb_typeof(body -> 'key') = 'string' AND jsonb_typeof(body -> 'sha256') = 'string'
        AND body - 'key' - 'sha256' = '{}', false
    )),
    CONSTRAINT events_error_says_why CHECK (ok = (error IS NULL)),
    CONSTRAINT events_times_are_rfc3339 CHECK (
        at BETWEEN '0001-01-01Z' AND '9999-12-31 23:59:59.999999Z'
        AND (occurred_at IS NULL
             OR occurred_at BETWEEN '0001-01-01Z' AND '9999-12-31 23:59:59.999999Z')
    ),
    -- An id made from the position is never used twice, with no sequence to ask.
    CONSTRAINT events_credential_id_is_new CHECK (
        NOT (ok AND type IN ('credential.created', 'credential.imported'))
        OR coalesce(credential_id = position + 1 AND version = 1, false)
    )
);

COMMENT ON TABLE ledger.events IS
    'Append-only. Each row is a leaf of the Merkle tree; see docs/format.md.';

-- What a lookup is checked against. Reads are not in it, so they do not pay for it.
CREATE INDEX events_changes ON ledger.events (host, purpose, position DESC)
    WHERE ok AND type IN ('credential.created', 'credential.updated', 'credential.deleted',
                          'credential.erased', 'credential.rekeyed', 'credential.imported');

-- What serves secrets.credential_access_log.
CREATE INDEX events_accessed_at ON ledger.events ((coalesce(occurred_at, at)));
CREATE INDEX events_host ON ledger.events (host);
CREATE INDEX events_credential_id ON ledger.events (credential_id);

-- An import asks it what is there already.
CREATE INDEX events_imported ON ledger.events (type, ((details ->> 'legacy_id')::bigint))
    WHERE type IN ('credential.imported', 'access.imported');

CREATE FUNCTION ledger.refuse_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only: % is refused', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'object_not_in_prerequisite_state',
              HINT = 'What was recorded stays. A correction is a new event.';
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.events
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
-- ALWAYS: session_replication_role must not switch it off.
ALTER TABLE ledger.events ENABLE ALWAYS TRIGGER append_only;

-- Positions have no gap and time does not run backwards, whoever appends.
CREATE FUNCTION ledger.check_append() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    first_position bigint;
    last_position bigint;
    earliest timestamptz;
    appended_count bigint;
    ran_backwards boolean;
    before_at timestamptz;
BEGIN
    SELECT min(a.position), max(a.position), min(a.at), count(*), bool_or(a.at < a.previous_at)
      INTO first_position, last_position, earliest, appended_count, ran_backwards
      FROM (SELECT position, at, lag(at) OVER (ORDER BY position) AS previous_at
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
    IF ran_backwards OR earliest < before_at THEN
        RAISE EXCEPTION 'an event cannot be earlier than the one before it'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER check_append AFTER INSERT ON ledger.events
    REFERENCING NEW TABLE AS appended
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.check_append();
ALTER TABLE ledger.events ENABLE ALWAYS TRIGGER check_append;

-- The one lock. Its row is locked, never updated: an updated row bloats under an old snapshot.
CREATE TABLE ledger.lock (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row));
INSERT INTO ledger.lock VALUES (true);

CREATE TRIGGER never_changed BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.lock
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.lock ENABLE ALWAYS TRIGGER never_changed;

-- The tree above the leaves: node (level, index) covers the 256^level leaves from
-- index * 256^level on, and is stored once they are all there.
CREATE TABLE ledger.nodes (
    level smallint NOT NULL CHECK (level BETWEEN 1 AND 7),
    index bigint   NOT NULL CHECK (index >= 0),
    hash  bytea    NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (level, index)
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.nodes
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.nodes ENABLE ALWAYS TRIGGER append_only;

GRANT SELECT, INSERT ON ledger.events, ledger.nodes TO secrets_broker_service;
-- SELECT ... FOR UPDATE asks for the right to update; the trigger refuses the update itself.
GRANT SELECT, UPDATE ON ledger.lock TO secrets_broker_service;
GRANT SELECT ON ledger.events, ledger.nodes TO secrets_broker_auditor;

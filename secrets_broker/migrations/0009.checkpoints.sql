-- Checkpoints: every signed tree head that was published, which of them is the published one, and
-- what witnesses say of them.
-- depends: 0008.erasure

CREATE TABLE ledger.checkpoints (
    origin    text        NOT NULL,
    size      bigint      NOT NULL CHECK (size >= 0),
    root      bytea       NOT NULL CHECK (octet_length(root) = 32),
    note      text        NOT NULL,
    signed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (origin, size)
);

-- Oldest first, whatever they are called.
CREATE INDEX checkpoints_in_time ON ledger.checkpoints (signed_at, origin, size);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.checkpoints ENABLE ALWAYS TRIGGER append_only;

-- The published one: a single row, moved by UPDATE ... WHERE it is still where it was, so that of
-- two processes one moves it. Before the first checkpoint its origin is null.
CREATE TABLE ledger.published (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    origin   text,
    size     bigint NOT NULL
);
INSERT INTO ledger.published (size) VALUES (0);

-- Never smaller. Another origin comes only after the event that says that the ledger was restored,
-- and which checkpoint it left behind. The first one of all needs no leave.
CREATE FUNCTION ledger.check_published() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.origin IS NULL
       OR NEW.size > (SELECT coalesce(max(e.position) + 1, 0) FROM ledger.events AS e)
       OR NOT EXISTS (SELECT FROM ledger.checkpoints AS c
                      WHERE c.origin = NEW.origin AND c.size = NEW.size) THEN
        RAISE EXCEPTION 'what is published is a checkpoint of committed events'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF NEW.origin = OLD.origin AND NEW.size <= OLD.size THEN
        RAISE EXCEPTION 'the published checkpoint never goes back'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF NEW.origin <> OLD.origin AND NOT EXISTS (
        SELECT FROM ledger.events AS e
        WHERE e.ok AND e.type = 'ledger.restored' AND e.position < NEW.size
          AND e.details ->> 'origin' = OLD.origin AND e.details ->> 'new_origin' = NEW.origin
    ) THEN
        RAISE EXCEPTION 'another origin needs a ledger.restored event that names both'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'See: secrets-broker restored --help';
    END IF;
    RETURN NEW;
END
$$;
-- AFTER: so that the checkpoint, which one statement inserts together with this move, is seen.
CREATE TRIGGER check_published AFTER UPDATE ON ledger.published
    FOR EACH ROW EXECUTE FUNCTION ledger.check_published();
ALTER TABLE ledger.published ENABLE ALWAYS TRIGGER check_published;
CREATE TRIGGER one_row BEFORE INSERT OR DELETE OR TRUNCATE ON ledger.published
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.published ENABLE ALWAYS TRIGGER one_row;

-- One row an event of this type; a lookup pays nothing for it.
CREATE INDEX events_restored ON ledger.events (position) WHERE ok AND type = 'ledger.restored';

-- A witness's signature line under a checkpoint, as it came.
CREATE TABLE ledger.cosignatures (
    origin      text        NOT NULL,
    size        bigint      NOT NULL,
    name        text        NOT NULL,
    key_id      bytea       NOT NULL CHECK (octet_length(key_id) = 4),
    line        text        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (origin, size, name, key_id)
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.cosignatures
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.cosignatures ENABLE ALWAYS TRIGGER append_only;

GRANT SELECT, INSERT ON ledger.checkpoints, ledger.cosignatures TO secrets_broker_service;
GRANT SELECT, UPDATE ON ledger.published TO secrets_broker_service;
GRANT SELECT ON ledger.checkpoints, ledger.published, ledger.cosignatures
    TO secrets_broker_auditor;

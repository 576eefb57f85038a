-- When a credential ends, and how often it is to be changed.
-- depends: 0006.rotation

ALTER TABLE secrets.host_credentials
    -- What RFC 3339 can write: an infinite time would have no text to check a row by.
    ADD COLUMN expires_at timestamptz CONSTRAINT host_credentials_expires_at_is_rfc3339
        CHECK (expires_at BETWEEN '0001-01-01Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD COLUMN rotate_after integer CONSTRAINT host_credentials_rotate_after_is_days
        CHECK (rotate_after BETWEEN 1 AND 36500);

COMMENT ON COLUMN secrets.host_credentials.rotate_after IS 'Days from updated_at.';

-- What `secrets-broker due` reads. Not on updated_at: an index on what every update changes
-- would keep it from staying on its page without touching any index.
CREATE INDEX idx_host_credentials_expires_at ON secrets.host_credentials (expires_at)
    WHERE expires_at IS NOT NULL;
CREATE INDEX idx_host_credentials_rotate_after ON secrets.host_credentials (rotate_after)
    WHERE rotate_after IS NOT NULL;

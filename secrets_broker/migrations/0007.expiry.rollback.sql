ALTER TABLE secrets.host_credentials
    DROP COLUMN rotate_after,
    DROP COLUMN expires_at;

"""The tables of an earlier, plain installation, and statements that its programs send."""

TABLES = """
CREATE SCHEMA secrets;
CREATE TABLE secrets.host_credentials (
    id SERIAL PRIMARY KEY,
    host VARCHAR(255) NOT NULL,
    purpose VARCHAR(50) NOT NULL,
    username VARCHAR(255),
    password_encrypted TEXT,
    domain VARCHAR(255),
    additional_data JSONB DEFAULT '{}',
    created_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    created_by VARCHAR(100),
    updated_by VARCHAR(100),
    UNIQUE (host, purpose)
);
CREATE INDEX idx_host_credentials_host ON secrets.host_credentials (host);
CREATE INDEX idx_host_credentials_purpose ON secrets.host_credentials (purpose);
CREATE INDEX idx_host_credentials_host_purpose ON secrets.host_credentials (host, purpose);
CREATE TABLE secrets.credential_access_log (
    id SERIAL PRIMARY KEY,
    credential_id INTEGER REFERENCES secrets.host_credentials (id) ON DELETE CASCADE,
    host VARCHAR(255) NOT NULL,
    purpose VARCHAR(50) NOT NULL,
    accessed_by VARCHAR(100),
    access_type VARCHAR(50) NOT NULL,
    success BOOLEAN DEFAULT true,
    error_message TEXT,
    ip_address INET,
    accessed_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX idx_credential_access_log_credential_id
    ON secrets.credential_access_log (credential_id);
CREATE INDEX idx_credential_access_log_accessed_at ON secrets.credential_access_log (accessed_at);
CREATE INDEX idx_credential_access_log_host ON secrets.credential_access_log (host);
"""

UPSERT = """
INSERT INTO secrets.host_credentials (host, purpose, username) VALUES ('h', 'p', 'u')
ON CONFLICT (host, purpose) DO UPDATE SET username = excluded.username || '2'
"""

RECORD = """
INSERT INTO secrets.credential_access_log (credential_id, host, purpose, access_type)
VALUES (1, 'h', 'p', 'read')
"""

CONTENT = """
SELECT c.id, c.username, l.access_type
FROM secrets.host_credentials AS c
JOIN secrets.credential_access_log AS l ON l.credential_id = c.id
ORDER BY l.id
"""

DROP VIEW secrets.credential_access_log;
DROP TABLE secrets.host_credentials;

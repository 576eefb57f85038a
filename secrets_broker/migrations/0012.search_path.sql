-- Names that nobody can shadow: without pg_temp at the end of search_path, a session's temporary
-- types and tables come before all others, pg_temp.timestamptz before the real one.
-- depends: 0011.certificates

ALTER FUNCTION ledger.refuse_change SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION ledger.check_append SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION ledger.check_kek_change SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION ledger.check_data_keys SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION ledger.appends_now SET search_path = pg_catalog, pg_temp;

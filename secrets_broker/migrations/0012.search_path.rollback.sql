ALTER FUNCTION ledger.appends_now SET search_path = pg_catalog;
ALTER FUNCTION ledger.check_data_keys SET search_path = pg_catalog;
ALTER FUNCTION ledger.check_kek_change SET search_path = pg_catalog;
ALTER FUNCTION ledger.check_append SET search_path = pg_catalog;
ALTER FUNCTION ledger.refuse_change SET search_path = pg_catalog;

DROP FUNCTION ledger.register_first_kek(text, text, bytea);
DROP TABLE ledger.data_keys;
DROP TABLE ledger.keks;
DROP TABLE ledger.bodies;

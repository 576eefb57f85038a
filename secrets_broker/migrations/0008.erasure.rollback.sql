-- Nothing can be erased any more; what was erased does not come back.
DROP FUNCTION ledger.destroy(bigint);
DROP TRIGGER same_key ON ledger.data_keys;
DROP TRIGGER destroyed_with_event ON ledger.data_keys;
DROP TRIGGER never_emptied ON ledger.data_keys;
DROP TRIGGER destroyed_with_event ON ledger.bodies;
DROP TRIGGER append_only ON ledger.bodies;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.bodies
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.bodies ENABLE ALWAYS TRIGGER append_only;
DROP FUNCTION ledger.refuse_another_key();
DROP FUNCTION ledger.check_destroyed_data_keys();
DROP FUNCTION ledger.check_destroyed_bodies();
DROP FUNCTION ledger.erased_here();

-- Removes the ledger. `secrets-broker migrate --rollback` asks first where there are events.

DROP TABLE ledger.nodes;
DROP TABLE ledger.lock;
DROP TABLE ledger.events;
DROP FUNCTION ledger.check_append();
DROP FUNCTION ledger.refuse_change();

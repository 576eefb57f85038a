DROP INDEX ledger.events_restored;
DROP TABLE ledger.cosignatures;
DROP TABLE ledger.published;
DROP FUNCTION ledger.check_published();
DROP TABLE ledger.checkpoints;

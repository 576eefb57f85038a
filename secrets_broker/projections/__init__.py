"""Read models that follow from the ledger's events."""

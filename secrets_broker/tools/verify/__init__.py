"""`secrets-broker verify`: check a whole ledger, wherever it is, and trust nobody."""

"""The ledger: commands become events, events become evidence."""

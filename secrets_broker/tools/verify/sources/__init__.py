"""Where a ledger is read from: a database, an exported folder, or another service over HTTP.

A source gives ranges of entries and says what is damaged. What they mean is judged in checks.
"""

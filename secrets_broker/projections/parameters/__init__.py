"""Parameters of questions: times, durations, points in the ledger, a credential's name.

Each is parsed strictly into values. Nothing here asks the database for more than a position.
"""

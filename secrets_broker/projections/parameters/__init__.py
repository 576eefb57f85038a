"""What people write in a question: times, durations, points in the ledger, a credential's name.

Each is read strictly and turned into values; nothing here asks the database for more than a
position.
"""

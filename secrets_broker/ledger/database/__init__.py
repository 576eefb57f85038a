"""How the ledger speaks to PostgreSQL: its session, round trips, when a commit is believed.

The search by time and the patterns of names stand here too. What is asked about events, keys or
grants stands with them.
"""

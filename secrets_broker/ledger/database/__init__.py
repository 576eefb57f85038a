"""How the ledger speaks to PostgreSQL: its session, round trips, when a commit is believed.

The search by time and the patterns of names are here too. Queries about events, keys or grants are
in the rooms of those.
"""

"""Detects that the database was set back, by facts that no restore of it reaches.

Here are the checkpoint file and the facts beside it, what was acknowledged, the comparison with the
ledger, and the halt that follows. Recovery after a loss is in operations.
"""

"""What notices that the database was set back: facts that are kept where no restore reaches.

Here live the checkpoint file and what stands beside it, what was acknowledged, the comparison with
what the ledger says now, and the halt that follows. To go on after a loss is in operations.
"""

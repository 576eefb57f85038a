"""What an operator does to a ledger: each is a run of transactions on the one write path.

Rotation of the KEK, new data keys, erasure, recovery after a loss, disowning, demanding MACs,
changes of grants. Each names what holds if it dies. Options, questions and reports are in tools.
"""

"""What an operator does to a ledger: each operation runs transactions on the one write path.

Here are rotation of the KEK, rekeying, erasure, recovery after a loss, disowning, demanding MACs,
and changes of grants. Each states what holds if it dies. Options, prompts and reports are in tools.
"""

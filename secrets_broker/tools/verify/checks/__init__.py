"""Checking a ledger that nobody is trusted about: the pure part, which does no I/O.

`examine` takes a range of entries, alone and in any process; `Checker` takes what it found, in
order, and holds what reaches across ranges: the tree, the checkpoints, the credentials' lives.
"""

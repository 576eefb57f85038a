"""What a ledger is held to: the pure part of verify, which does no I/O but for its temporary files.

`examine` takes a range of entries, alone and in any process; `Checker` takes what it found, in
order, and holds what reaches across ranges: the tree, the checkpoints, each credential's history.
"""

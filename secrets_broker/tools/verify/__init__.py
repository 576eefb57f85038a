"""`secrets-broker verify`: check a whole ledger, wherever it is, and trust nobody.

All of it is here:  `sources` reads a ledger from a database, a folder or a service; `checks` holds
its events to each other and to the tree, without I/O; `side_data` checks what lies beside the
events; `run_checks` and `verification` put them together, and `report` says what was found.
"""

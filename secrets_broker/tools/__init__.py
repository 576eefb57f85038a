"""The command line, one thin command a file; a job in its own right is a room.

A command reads options, calls what does the work, and reports. What changes the ledger is in
ledger/operations, what asks it in projections/queries.
"""

"""Who asks, and whether a request is let in: authentication, admission, throttled refusals.

The rules are in ledger/access; this package applies them to one request. No endpoint's own work
belongs here.
"""

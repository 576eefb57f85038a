"""Who asks, and whether a request is let in: authentication, admission, throttling of refusals.

The rules are in ledger/access; here they are put to one request. No endpoint's own work belongs
here.
"""

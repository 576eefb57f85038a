"""Who may do what: access keys, grants, rights, quotas, refusals. Pure, but for `usage`.

Here is the judgement; http/auth reads a request's key from its headers. Keys that encrypt are in
encryption.
"""

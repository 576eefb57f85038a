"""Who may do what: access keys, grants, rights, quotas, refusals. Pure, but for `usage`.

Here is the judgement; the key of a request is read from its headers in http/auth. The keys that
encrypt live in encryption.
"""

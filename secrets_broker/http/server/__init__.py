"""The process that serves: gunicorn's configuration and worker, HTTP/1.1, connections, TLS.

Nothing here knows an endpoint, a key, or the ledger.
"""

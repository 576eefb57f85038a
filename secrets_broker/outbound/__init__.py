"""Every HTTP request that we send: addresses, TLS, the one client; no ledger, setting or route."""

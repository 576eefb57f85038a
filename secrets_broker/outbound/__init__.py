"""Outbound HTTP: addresses, TLS and the one client. No ledger, setting or route belongs here."""

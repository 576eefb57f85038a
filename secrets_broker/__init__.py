"""Secrets Broker: an event-sourced, audit-first credential ledger."""

"""Metrics for Prometheus, over all workers of a service.

`counters` declares what is counted as it happens, `gauges` what is read from time to time.
"""

"""What is counted and gauged for Prometheus, over all workers of a service.

What is counted as it happens is declared in `counters`, what is read from time to time in
`gauges`.
"""

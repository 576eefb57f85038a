"""Who waits for whom: the fair queue, shares, back-off, time slices, background tasks.

`advisory_lock` lets one run of a tool work at a time. Nothing here knows what an event says.
"""

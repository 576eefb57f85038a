"""Projections: what follows from the events and can be made again from them.

This package holds the table of live credentials, its rebuild, its comparison, and the queries.
It appends one event only: the one that says that the table was rebuilt.
"""

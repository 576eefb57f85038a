"""What follows from the events, and can be made again from them.

Here live the table of live credentials, its rebuild and its comparison. Nothing here appends an
event, but for the one that says that the table was rebuilt.
"""

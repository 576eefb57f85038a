"""The endpoints, one file a family: a request becomes a command or a question.

What they share stands in http; how a question is answered is in projections/queries.
"""

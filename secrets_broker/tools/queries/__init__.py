"""The commands of an auditor: history, exposure, events, unused, due. One file a question.

What they ask is in projections/queries.
"""

"""The MAC of each event: which events are accepted, and which were disowned.

Here MACs are checked as events are read under the lock. A forged event is disowned in operations.
That MACs are required at all is a fact in rollback_detection.
"""

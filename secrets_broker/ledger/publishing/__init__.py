"""How the log is published: checkpoints are signed in the background, and witnesses cosign them.

The formats are in transparency_log. What is kept outside the database, so that a loss is noticed,
is in rollback_detection.
"""

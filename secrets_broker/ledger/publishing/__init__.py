"""How the log is published: checkpoints are signed in the background, and witnesses cosign them.

The formats are in transparency_log. The facts outside the database, by which a loss is detected,
are in rollback_detection.
"""

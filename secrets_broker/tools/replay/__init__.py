"""`secrets-broker replay`: credentials as they were, what changed, and passwords of the past."""

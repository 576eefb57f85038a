"""`secrets-broker witness`: have checkpoints cosigned, or be a witness for others."""

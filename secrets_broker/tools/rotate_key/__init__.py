"""`secrets-broker rotate-key`: another KEK, or new data keys, while the services serve."""

"""`secrets-broker erase`: options and report, and the list of erasures."""

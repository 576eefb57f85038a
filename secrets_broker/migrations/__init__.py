"""The database's schema as plain SQL, and its runner."""

"""What can go wrong with the embedded PostgreSQL: one tree, each message says what to do."""


class PostgresError(Exception):
    """The embedded PostgreSQL cannot do what was asked."""


class BinariesError(PostgresError):
    """No PostgreSQL binaries were found that can be run."""


class AccountError(PostgresError):
    """There is no account that PostgreSQL may run under."""


class FolderError(PostgresError):
    """A folder is not private to us, or cannot be used where it is."""


class FolderInUseError(PostgresError):
    """Another supervisor holds this data folder."""


class StartError(PostgresError):
    """PostgreSQL was not made or did not begin to answer; the message ends with its own words."""


class StopError(PostgresError):
    """PostgreSQL is still there after every signal."""


class NotRunningError(PostgresError):
    """Something was asked that only a started cluster knows."""

"""Why the schema could not be changed. Each message says what to do, and holds no password."""


class MigrationError(Exception):
    """The schema is not as was asked."""


class BadDatabaseUrlError(MigrationError):
    """The URL is not one, or does not mean what its writer meant; it is not repeated."""


class CannotConnectError(MigrationError):
    """The database does not let us in."""


class UnfitServerError(MigrationError):
    """The server's version or the database's encoding cannot hold the ledger."""


class MigrationRunningError(MigrationError):
    """Another migration did not end in the time that was given to it."""


class ManifestError(MigrationError):
    """The SQL files are not the ones that SHA256SUMS lists."""


class HistoryError(MigrationError):
    """What the database records as applied is not what the SQL files say."""


class HandAppliedError(MigrationError):
    """Some of the SQL files were run by hand, but not all, or not to their end."""


class OutdatedSchemaError(MigrationError):
    """The database lacks a part of the schema that this version needs."""


class StatementError(MigrationError):
    """PostgreSQL refused a statement; nothing of its file was kept."""

"""`secrets-broker import-legacy`: take over the tables of an earlier, plain installation."""

from secrets_broker.tools.import_legacy.command import import_legacy_command
from secrets_broker.tools.import_legacy.legacy_tables import ImportRefusedError
from secrets_broker.tools.import_legacy.run import Failure, ImportReport, TableTally, import_legacy

__all__ = [
    "Failure",
    "ImportRefusedError",
    "ImportReport",
    "TableTally",
    "import_legacy",
    "import_legacy_command",
]

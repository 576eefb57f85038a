"""The names of the migration files."""

from secrets_broker.migrations import manifest

FORWARD = [file.path for file in manifest.checked_files()]
NAMES = [path.stem for path in FORWARD]


def quiet(_: str) -> None:
    """Say nothing."""

"""The check that an export is whole."""

from base64 import b64decode
from pathlib import Path

from tests.tools.export.helpers import (
    checkpoint_of,
    read_entries,
    read_root,
)


def whole(folder: Path, size: int) -> bool:
    """Whether the folder is a log of that size: all tiles, and the checkpoint's root."""
    return (
        checkpoint_of(folder)[1] == size
        and len(read_entries(folder)) == size
        and read_root(folder) == b64decode(checkpoint_of(folder)[2])
    )

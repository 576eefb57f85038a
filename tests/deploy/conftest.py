"""What the tests of a deployment share."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from secrets_broker.tools.postgres.account import Account, postgres_account
from secrets_broker.tools.postgres.binaries import find_binaries
from secrets_broker.tools.postgres.installation import runnable
from secrets_broker.tools.postgres.layout import SHARED_DIR
from tests.deploy.production import Production


@contextmanager
def as_production(
    bin_dir: Path | None, *, broker_account: Account | None = None, config_apart: bool = False
) -> Iterator[Production]:
    """A migrated cluster as production has it."""
    folder = Path(tempfile.mkdtemp(prefix="secrets-broker-production-"))
    folder.chmod(0o711)  # as root, PostgreSQL's own account has to pass through
    account = postgres_account(Path("/nonexistent"), print)
    installation = runnable(find_binaries(bin_dir), account, SHARED_DIR, print)
    made = Production(
        folder,
        installation.bin_dir,
        account,
        broker_account=broker_account,
        config_apart=config_apart,
    )
    try:
        made.make()
        yield made
    finally:
        for pgdata in made.home.glob("*/PG_VERSION"):
            made.stop(pgdata.parent)
        shutil.rmtree(folder)


@pytest.fixture
def production(bin_dir: Path | None) -> Iterator[Production]:
    """The same, with the settings in the data folder."""
    with as_production(bin_dir) as made:
        yield made

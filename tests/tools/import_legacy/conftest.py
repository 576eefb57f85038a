"""Databases with an earlier installation's tables, set aside by the migrations."""

from collections.abc import Iterator

import pytest

from secrets_broker.migrations import runner
from secrets_broker.tools.postgres import Cluster
from tests.conftest import fresh_database
from tests.earlier import TABLES
from tests.tools.import_legacy.earlier import Earlier


@pytest.fixture(scope="package")
def template(cluster: Cluster) -> Iterator[str]:
    """The name of a migrated database in which an earlier installation's tables were, empty."""
    with fresh_database(cluster, "template0") as made:
        made.execute(TABLES)
        runner.apply(made.owner_url, lambda _: None)
        yield made.name


@pytest.fixture
def earlier(cluster: Cluster, template: str) -> Iterator[Earlier]:
    """An earlier installation's tables, set aside in a fresh database."""
    with fresh_database(cluster, template) as made:
        yield Earlier(made)

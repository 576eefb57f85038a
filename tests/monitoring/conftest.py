"""A service whose gauges are all there."""

from collections.abc import Iterator

import pytest

from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, fresh_database
from tests.http.conftest import folder, serving
from tests.monitoring.expressions import Served
from tests.waiting import until

NAME = {"host": "monitored.example", "purpose": "ssh"}


@pytest.fixture(scope="session")
def served(cluster: Cluster) -> Iterator[Served]:
    """What a service serves that had a request, a refusal, and time to gather."""
    with (
        fresh_database(cluster, TEMPLATE) as database,
        folder() as place,
        serving(
            database.service_url, place / "log", settings={"METRICS_SECONDS": "0.1"}
        ) as running,
    ):
        running.upsert(**NAME, password="p")
        running.lookup({"X-Internal-Key": "wrong"}, **NAME)
        differences = "secrets_projection_differences"
        until(lambda: differences in running.metrics(), "nothing was gathered")
        yield Served(running)

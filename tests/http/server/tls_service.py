"""A service that speaks TLS."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, fresh_database
from tests.http.authority import SERVER, Authority
from tests.http.client import Service
from tests.http.conftest import folder, serving


@contextmanager
def over_tls(
    cluster: Cluster,
    authority: Authority,
    changed: Mapping[str, str] = MappingProxyType({}),
    shows: Path | None = None,
) -> Iterator[Service]:
    """A service whose clients are asked for a certificate."""
    own = str(authority.issue("127.0.0.1", usage=SERVER))
    settings = {
        "TLS_CERT_FILE": own,
        "TLS_KEY_FILE": own,
        "TLS_CLIENT_CA_FILE": str(authority.file),
        "TLS_CLIENT_CERT": "optional",
        **changed,
    }
    with (
        fresh_database(cluster, TEMPLATE) as database,
        folder() as place,
        serving(
            database.service_url,
            place / "gunicorn.log",
            settings=settings,
            tls=authority.client(shows),
        ) as running,
    ):
        running.database = database
        yield running

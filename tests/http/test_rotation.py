"""Rotation before a real service: no request fails because of it, whatever wraps the KEK."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from boto3.session import Session
from moto.server import ThreadedMotoServer

from secrets_broker.tools.postgres import Cluster
from tests.conftest import INTERNAL_KEY, KMS_KEY, TEMPLATE, Database, fresh_database
from tests.http.client import Service
from tests.http.conftest import folder, serving
from tests.ledger.encryption.kms.softhsm import MISSING, MODULE, PIN, SoftHsm
from tests.tools.command_line import run
from tests.waiting import until

HOSTS = [f"host-{number}" for number in range(20)]
SECOND, THIRD = "the-second-key-of-three", "the-third-key-of-three"
Settings = Mapping[str, str]


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    """A fresh database."""
    with fresh_database(cluster, TEMPLATE) as made:
        yield made


@contextmanager
def broker(database: Database, settings: Settings, until: int = 200) -> Iterator[Service]:
    """The service, with these settings of keys and no others."""
    keys = {"SECRETS_KMS_KEY": "", **settings}
    with (
        folder() as place,
        serving(database.service_url, place / "log", settings=keys, until=until) as service,
    ):
        yield service


def rotate(database: Database, settings: Settings, folder_: Path, *options: str) -> None:
    """Run rotate-key with a service's settings; it has to succeed."""
    urls = {"DATABASE_URL": database.service_url, "MIGRATION_DATABASE_URL": database.owner_url}
    env = {"INTERNAL_KEY": INTERNAL_KEY, **urls, **settings}
    done = run("rotate-key", *options, cwd=folder_, env=env)
    assert done.returncode == 0, done.stderr


def fill(service: Service) -> None:
    """Store a credential for each host."""
    for host in HOSTS:
        assert service.upsert(host=host, purpose="ssh", password=f"of {host}").status == 200


def serves_all(service: Service) -> bool:
    """Whether every credential comes back right."""
    answers = [service.lookup(host=host, purpose="ssh") for host in HOSTS]
    return [a.json.get("password") for a in answers] == [f"of {host}" for host in HOSTS]


@contextmanager
def load(service: Service) -> Iterator[None]:
    """Look up and store from four threads meanwhile; every answer has to be a 200."""
    statuses: list[int] = []
    stop = threading.Event()

    def ask(number: int) -> None:
        while not stop.is_set():
            for host in HOSTS:
                statuses.append(service.lookup(host=host, purpose="ssh").status)
            name = f"new-{number}-{len(statuses)}"
            statuses.append(service.upsert(host=name, purpose="ssh", password="p").status)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(statuses) > len(HOSTS)
    assert set(statuses) == {200}


def test_twice_under_load(database: Database, tmp_path: Path) -> None:
    """With all keys at hand, two rotations under load fail no request; then one key is enough."""
    previous = {"SECRETS_KMS_KEY": KMS_KEY, "SECRETS_KMS_KEY_PREVIOUS": f"{SECOND},{THIRD}"}
    with broker(database, previous) as service:
        fill(service)
        with load(service):
            rotate(database, previous, tmp_path, "--old-key", KMS_KEY, "--new-key", SECOND)
            rotate(database, previous, tmp_path, "--old-key", SECOND, "--new-key", THIRD)
    with broker(database, {"SECRETS_KMS_KEY": THIRD}) as service:
        assert serves_all(service)
        assert KMS_KEY not in service.log.read_text()


def test_a_service_without_the_new_key(database: Database, tmp_path: Path) -> None:
    """It fails readiness with a clear word, and serves nothing; no event says that it did."""
    with broker(database, {"SECRETS_KMS_KEY": KMS_KEY}) as service:
        fill(service)
        settings = {"SECRETS_KMS_KEY": SECOND, "SECRETS_KMS_KEY_PREVIOUS": KMS_KEY}
        rotate(database, settings, tmp_path)
        size = database.fetch("SELECT count(*) FROM ledger.events")
        assert service.lookup(host=HOSTS[0], purpose="ssh").status == 503
        detail = "SECRETS_KMS_KEY is not the key of this ledger; see the log."
        assert _unready(service) == {"status": "not_ready", "detail": detail}
        service.says("SECRETS_KMS_KEY is not the key of this ledger")
        assert database.fetch("SELECT count(*) FROM ledger.events") == size


def _unready(service: Service) -> object:
    # Each worker keeps its answer for a second, so the next one may be of another worker.
    answers = [service.get("/health/ready")]

    def is_unready() -> bool:
        answers.append(service.get("/health/ready"))
        return answers[-1].status != 200

    until(is_unready, "it stays ready")
    return answers[-1].json


@contextmanager
def moto() -> Iterator[Settings]:
    """AWS KMS, as moto has it: the settings that name a key of it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    login = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    try:
        session = Session("testing", "testing", region_name="eu-central-1")
        owner = session.client("kms", endpoint_url=f"http://{host}:{port}")
        arn = owner.create_key()["KeyMetadata"]["Arn"]
        owner.close()
        query = f"region=eu-central-1&endpoint=http://{host}:{port}"
        yield {"SECRETS_KMS": f"aws-kms:///{arn}?{query}", **login}
    finally:
        server.stop()


@contextmanager
def hsm() -> Iterator[Settings]:
    """SoftHSM2: the settings that name a key of a token of it."""
    if MISSING:
        pytest.skip(MISSING)
    with folder() as place, pytest.MonkeyPatch.context() as patch:
        token = SoftHsm(place)
        token.write_configuration()
        patch.setenv("SOFTHSM2_CONF", str(token.configuration))
        token.make_token("broker")
        token.make_key("kek")
        yield {
            "SECRETS_KMS": f"pkcs11:token=broker;object=kek?module-path={MODULE}",
            "SECRETS_KMS_PIN": PIN,
            "SOFTHSM2_CONF": str(token.configuration),
        }


@pytest.mark.parametrize("kms", [moto, hsm])
def test_into_a_kms_and_out_again(database: Database, tmp_path: Path, kms: type) -> None:
    """From the environment's key to a KMS, to a new KEK of it, and back: under load throughout."""
    with kms() as settings:
        both = {**settings, "SECRETS_KMS_KEY": KMS_KEY}
        with broker(database, {"SECRETS_KMS_KEY": KMS_KEY}) as service:
            fill(service)
        with broker(database, both) as service, load(service):
            rotate(database, both, tmp_path, "--settle", "2")
        with broker(database, settings) as service:
            assert serves_all(service)
            with load(service):
                rotate(database, settings, tmp_path, "--settle", "2")
        back = {**settings, "SECRETS_KMS_PREVIOUS": settings["SECRETS_KMS"], "SECRETS_KMS": ""}
        back["SECRETS_KMS_KEY"] = SECOND
        with broker(database, back) as service, load(service):
            rotate(database, back, tmp_path)
    with broker(database, {"SECRETS_KMS_KEY": SECOND}) as service:
        assert serves_all(service)
    states = database.fetch("SELECT state, wrapped IS NULL FROM ledger.keks ORDER BY created_at")
    assert states == [("retired", True)] * 3 + [("active", True)]


def test_a_ledger_that_begins_in_a_kms(database: Database) -> None:
    """Without a key of the environment the first KEK is the KMS's, stored as it was wrapped."""
    with moto() as settings, broker(database, settings) as service:
        fill(service)
        assert serves_all(service)
    ((provider, wrapped),) = database.fetch("SELECT provider, wrapped FROM ledger.keks")
    assert provider.startswith("aws-kms:arn:aws:kms:eu-central-1:")
    assert len(wrapped) > 32


def test_a_kms_that_is_away_delays_the_start_alone(database: Database) -> None:
    """What runs goes on without its KMS; what starts is unready, says why, and serves nothing."""
    with moto() as settings:
        running = broker(database, settings)
        service = running.__enter__()
        fill(service)
    try:
        assert serves_all(service)
        with broker(database, settings, until=503) as late:
            assert late.lookup(host=HOSTS[0], purpose="ssh").status == 503
            late.says("aws-kms:")
    finally:
        running.__exit__(None, None, None)

"""Connections: nobody can take so many that others have none, and who watches gets in."""

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secrets_broker.http.server.connection_counts import SharedCounts
from secrets_broker.http.server.connections import SPARE_PER_SOURCE
from secrets_broker.http.server.descriptors import OWN, SPARE, Caps
from secrets_broker.settings import Settings
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, fresh_database
from tests.http.client import LOOKUP, Service, log_lines
from tests.http.conftest import folder, serving
from tests.waiting import until

TOO_MANY = b'{"reason":"too_many_connections"'
REFUSED = "secrets_connections_refused_total"
HEAD = b"POST %s HTTP/1.1\r\nHost: a\r\n" % LOOKUP.encode()
PROXY = "127.0.9.1"


@contextmanager
def capped(cluster: Cluster, **settings: str) -> Iterator[Service]:
    """A service with small caps."""
    with fresh_database(cluster, TEMPLATE) as database, folder() as place:
        log = place / "gunicorn.log"
        with serving(database.service_url, log, settings=settings) as running:
            running.database = database
            yield running


@pytest.fixture(scope="module")
def small(cluster: Cluster) -> Iterator[Service]:
    """A service that takes 40 connections, ten of a source, and trusts a proxy."""
    caps = {"MAX_CONNECTIONS": "40", "MAX_CONNECTIONS_PER_SOURCE": "10", "TRUSTED_PROXIES": PROXY}
    with capped(cluster, **caps) as running:
        yield running


@pytest.fixture(autouse=True)
def everybody_has_left(small: Service) -> None:
    """Each test begins without connections of another's."""
    until(
        lambda: small.metrics()["secrets_connections"] <= 1,  # that of /metrics itself
        "connections of an earlier test are still counted",
    )


def connect(service: Service, source: str) -> socket.socket:
    """Open a connection from an address of this machine."""
    where = ("127.0.0.1", service.port)
    return socket.create_connection(where, timeout=20, source_address=(source, 0))


def received(sock: socket.socket) -> bytes:
    """All that comes until the server closes."""
    data = b""
    try:
        while more := sock.recv(65_536):
            data += more
    except ConnectionResetError:
        pass
    return data


def is_served(sock: socket.socket) -> bool:
    """Whether a request for what needs a key is looked at at all: here, refused for want of one."""
    sock.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
    try:
        answer = sock.recv(65_536)
    except ConnectionResetError:
        return False
    assert answer.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 503 ")) or not answer
    return answer.startswith(b"HTTP/1.1 403 ")


def counted(service: Service, number: int) -> None:
    """Wait until the workers have taken so many connections; they count them each second.

    That of /metrics itself may be among them, so they have to be there in two counts in a row.
    """
    give_up = time.monotonic() + 30
    seen = 0
    while seen < 2:
        assert time.monotonic() < give_up, "the connections were not taken"
        seen = seen + 1 if service.metrics()["secrets_connections"] >= number else 0
        time.sleep(1.1)


def from_(service: Service, source: str, path: str) -> int:
    """The status of a GET from an address."""
    before, service.source = service.source, source
    try:
        return service.get(path).status
    finally:
        service.source = before


def test_a_source_has_so_many_and_others_have_theirs(small: Service) -> None:
    """Whoever opens as many as he can has his cap over all workers; the next are told, in time.

    Others are served, and so are those who watch, from the same address too.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(connect(small, "127.0.3.1")) for _ in range(10)]
        counted(small, 10)
        more = [stack.enter_context(connect(small, "127.0.3.1")) for _ in range(20)]
        answers = [received(sock) for sock in more]
        told = [answer for answer in answers if answer]
        assert len(told) >= SPARE_PER_SOURCE
        assert all(TOO_MANY in answer and b"503" in answer[:20] for answer in told)
        assert all(b"retry-after: 1" in answer for answer in told)
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert from_(small, "127.0.3.1", path) == 200
        assert from_(small, "127.0.3.2", "/health/ready") == 200
        with connect(small, "127.0.3.2") as another:
            assert is_served(another)
        assert all(is_served(sock) for sock in held)  # those within the cap were kept
        with connect(small, "127.0.3.1") as late:
            assert not is_served(late)
    assert small.metrics()[REFUSED + '{cap="source"}'] >= 21

    def told_of() -> list[dict[str, object]]:
        return [line for line in log_lines(small.log.read_text()) if "connections" in line["event"]]

    until(told_of, "no connection that was refused is told of")
    assert len(told_of()) <= 10  # not one for each


def test_a_place_is_free_again(small: Service) -> None:
    """Whoever closes makes room, whatever the connection was used for."""
    for _ in range(3):
        with ExitStack() as stack:
            held = [stack.enter_context(connect(small, "127.0.3.3")) for _ in range(10)]
            for number, sock in enumerate(held):
                sock.sendall(
                    [b"", b"GET", b"\x16\x03", HEAD, b"GET / HTTP/1.1\r\n\r\n"][number % 5]
                )
        give_up = time.monotonic() + 10
        while True:
            with connect(small, "127.0.3.3") as again:
                if is_served(again):
                    break
            assert time.monotonic() < give_up, "what was closed is counted still"
            time.sleep(0.1)


def _is_refused(service: Service, source: str) -> bool:
    with connect(service, source) as another:
        return not is_served(another)


def test_all_together_have_so_many(small: Service) -> None:
    """Four sources fill it; a fifth is told, and may see health and metrics."""
    with ExitStack() as stack:
        for number in range(40):
            stack.enter_context(connect(small, f"127.0.4.{number // 10}"))
        counted(small, 39)  # /metrics itself has a spare one
        until(lambda: _is_refused(small, "127.0.4.9"))  # the last of the forty may be on its way
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert from_(small, "127.0.4.9", path) == 200
        with connect(small, "127.0.4.9") as idle:
            assert TOO_MANY in received(idle)
    assert small.metrics()[REFUSED + '{cap="all"}'] >= 2


def test_a_proxys_connections_are_its_clients(small: Service) -> None:
    """It may have more than one source; what it forwards counts for whom it forwards it."""

    def begun(client: str) -> socket.socket:
        """A request that is under way: its body is still to come."""
        sock = connect(small, PROXY)
        forwarded = f"X-Forwarded-For: {client}\r\nX-Internal-Key: {small.internal_key}\r\n"
        more = "Content-Type: application/json\r\nContent-Length: 40\r\n\r\n"
        sock.sendall(HEAD + (forwarded + more).encode())
        return sock

    with ExitStack() as stack:
        for _ in range(15):  # idle ones, which are nobody's
            stack.enter_context(connect(small, PROXY))
        busy = [stack.enter_context(begun("192.0.2.1")) for _ in range(10)]
        time.sleep(0.3)
        with begun("192.0.2.1") as refused:
            assert TOO_MANY in received(refused)
        with begun("192.0.2.2") as another:
            another.sendall(b'{"host": "a", "purpose": "ssh"}         ')
            assert another.recv(65_536).startswith(b"HTTP/1.1 404 ")
        for sock in busy:
            sock.sendall(b'{"host": "a", "purpose": "ssh"}         ')
            assert sock.recv(65_536).startswith(b"HTTP/1.1 404 ")
        with begun("192.0.2.1") as again:  # answered, they count no longer
            again.sendall(b'{"host": "a", "purpose": "ssh"}         ')
            assert again.recv(65_536).startswith(b"HTTP/1.1 404 ")
    assert small.metrics()[REFUSED + '{cap="forwarded"}'] >= 1


def test_more_requests_at_once_than_anybody_needs(small: Service) -> None:
    """Ten thousand pipelined requests end the connection, and cost no more than a few."""
    answered, closed = small.raw(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n" * 10_000)
    assert closed
    assert answered.count(b"HTTP/1.1 200") < 100
    few, _ = small.raw(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n" * 20, seconds=1)
    assert few.count(b"HTTP/1.1 200") == 20


def test_a_worker_that_dies_leaves_no_connection_counted(small: Service) -> None:
    """What it counted goes with it."""
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(connect(small, "127.0.3.5"))
        counted(small, 10)
        for _ in range(2):
            small.replace_worker()
    with connect(small, "127.0.3.5") as another:
        assert is_served(another)


def test_room_is_kept_where_descriptors_are_few(cluster: Cluster) -> None:
    """Idle connections up to whatever the system allows: others are served, events recorded."""
    few = OWN + SPARE + 40
    with (
        fresh_database(cluster, TEMPLATE) as database,
        folder() as place,
        serving(database.service_url, place / "gunicorn.log", descriptors=few) as running,
    ):
        running.database = database
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(connect(running, "127.0.5.1"))
            time.sleep(0.5)
            running.source = "127.0.5.2"
            assert running.upsert(host="a", purpose="ssh", password="p").status == 200
            assert running.get("/health/ready").status == 200
        said = running.log.read_text()
    assert f"LimitNOFILE={1024 + OWN + SPARE}" in said
    assert "Too many open files" not in said


sources = st.integers(0, 2_000).map("192.0.2.{}".format)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), sources | st.none()), max_size=50), st.data())
def test_counts_are_never_too_low_and_end_at_nothing(
    steps: list[tuple[int, str | None]], data: st.DataObject
) -> None:
    """Whichever worker counted it, and whichever died: right, and 0 at the end."""
    counts, workers = SharedCounts(), [object() for _ in range(4)]
    parts = []
    for worker in workers:
        counts.reserve(worker)
        parts.append(counts._mine)
    assert len(set(parts)) == 4
    for worker, source in steps:
        counts._mine = parts[worker]
        counts.add(source, 1)
    expected = Counter(source for _, source in steps)
    assert counts.all == len(steps)
    for source in {source for source in expected if source}:
        assert counts.of(source) >= expected[source]
    dead = data.draw(st.sets(st.integers(0, 3)))
    for worker in dead:
        counts.release(workers[worker])
    for worker, source in steps:
        if worker not in dead:
            counts._mine = parts[worker]
            counts.add(source, -1)
    assert counts.all == 0
    assert not any(counts._counters[:-1])


def test_one_source_is_not_taken_for_another() -> None:
    """With a thousand sources at their caps, one that has none is counted as none."""
    counts = SharedCounts()
    for number in range(1_000):
        counts.add(f"192.0.2.{number}", 1)
    assert sum(counts.of(f"198.51.100.{number}") for number in range(1_000)) <= 20


@given(st.integers(1, 10_000), st.integers(1, 5_000), st.integers(1, 5_000))
def test_caps_leave_room_for_our_own(descriptors: int, most: int, per_source: int) -> None:
    """Whatever the limit: connections never take what is kept, nor one source all there is."""
    values = {"MAX_CONNECTIONS": str(most), "MAX_CONNECTIONS_PER_SOURCE": str(per_source)}
    caps = Caps.of(Settings(values), descriptors)
    assert caps.here == max(1, descriptors - OWN - SPARE)
    if caps.here < most:
        assert caps.per_source <= max(1, caps.here // 2)
        assert "LimitNOFILE" in (caps.warning or "")
    else:
        assert (caps.all, caps.per_source, caps.warning) == (most, per_source, None)

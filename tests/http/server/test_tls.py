"""TLS and client certificates, with real certificates and the service as it ships."""

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count

import psycopg
import pytest

from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.projections.queries import grant_list
from secrets_broker.tools.postgres import Cluster
from tests.conftest import INTERNAL_KEY, TEMPLATE, fresh_database
from tests.http.auth.refusals import FORBIDDEN, last
from tests.http.authority import SERVER, Authority, der
from tests.http.client import JSON, LOOKUP, Answer, Service, log_lines
from tests.http.conftest import folder, serving
from tests.http.granting import Keys, rule
from tests.http.server.tls_service import over_tls
from tests.waiting import until

NAME = {"host": "web-1", "purpose": "ssh"}
_sources = count(2)

NAME = {"host": "web-1", "purpose": "ssh"}
TURNED_AWAY = 'secrets_connections_refused_total{cap="source"}'


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    """Who issues the certificates of the server and of its clients."""
    with folder() as place:
        yield Authority(place)


@pytest.fixture(scope="module")
def optional(cluster: Cluster, authority: Authority) -> Iterator[Service]:
    """A service that clients may show a certificate."""
    with over_tls(cluster, authority) as running:
        yield running


@pytest.fixture
def service(optional: Service) -> Service:
    """The same, asked from an address of the test's own."""
    own = replace(optional, source=f"127.0.5.{next(_sources)}")
    own.database = optional.database
    return own


def ask(service: Service, context: ssl.SSLContext, host: str = "web-1") -> Answer:
    """Look something up with no key, as the client that the context makes."""
    service.tls = context
    return service.send("POST", LOOKUP, {**NAME, "host": host}, key=None)


@pytest.mark.parametrize(
    ("common_name", "uris", "actor"),
    [
        ("by-name", [], "by-name"),
        ("host-7", ["spiffe://x.example/deploy"], "spiffe://x.example/deploy"),
    ],
)
def test_the_actor_is_the_name_in_the_certificate(
    service: Service, authority: Authority, common_name: str, uris: list[str], actor: str
) -> None:
    """The URI, or where there is none the common name; with the rights of that name's grant."""
    Keys(service).grant_certificate(actor, rule("read"))
    file = authority.issue(common_name, uris=uris)
    assert ask(service, authority.client(file)).status == 404
    event = last(service)
    proof = f"mtls:{sha256(der(file)).hexdigest()}"
    assert (event["type"], event["actor"], event["authn"]) == ("credential.read", actor, proof)
    refused = ask(service, authority.client(file), "db-1")
    assert (refused.status, refused.headers["X-Ledger-Position"] is None) == (403, False)
    event = last(service)
    assert (event["type"], event["actor"], event["authn"]) == ("access.denied", actor, proof)
    assert event["details"] == {"operation": "read", "rule": "host"} | {
        name: event["details"][name]  # type: ignore[index]
        for name in ("key", "name")
    }


def test_what_a_caller_calls_himself_is_a_claim(service: Service, authority: Authority) -> None:
    """A header does not change who a certificate says it is, even one that proxies send."""
    Keys(service).grant_certificate("claiming", rule("read"))
    service.tls = authority.client(authority.issue("claiming"))
    headers = {"X-Service-Name": "other", "X-SSL-Client-S-DN": "CN=root", "X-Client-Cert": "x"}
    assert service.send("POST", LOOKUP, NAME, headers, key=None).status == 404
    assert (last(service)["actor"], last(service)["details"]) == ("claiming", {"claim": "other"})


def test_a_certificate_without_a_grant_is_an_unknown_caller(
    service: Service, authority: Authority
) -> None:
    """With its name as a claim; a grant for a key of that name is none for a certificate."""
    Keys(service).grant("with-a-key", rule("read"))
    Keys(service).grant_certificate("revoked-name", rule("read"))
    Keys(service).revoke("revoked-name")
    for name in ("nobody", "with-a-key", "revoked-name"):
        answer = ask(service, authority.client(authority.issue(name)))
        assert (answer.status, answer.json) == (403, FORBIDDEN)
        assert answer.headers["X-Ledger-Position"] is None
        event = last(service)
        assert (event["actor"], event["authn"]) == (None, "none")
        expected = {"operation": "read", "rule": "unknown_key", "claim": name}
        assert event["details"] == expected


@pytest.mark.parametrize(
    ("common_names", "uris"),
    [
        (["ambiguous"], ["spiffe://x/a", "spiffe://x/b"]),
        (["ambiguous"], ["no-scheme"]),
        (["ambiguous", "other"], []),
        (["spiffe://x/a"], []),
        ([], []),
        (["a\u202eb"], []),
        (["ambiguous"], ["x:" + "y" * 99]),
    ],
    ids=["two URIs", "URI without scheme", "two names", "name like a URI", "none", "bidi", "long"],
)
def test_a_certificate_that_names_nobody_opens_nothing(
    service: Service, authority: Authority, common_names: list[str], uris: list[str]
) -> None:
    """Nor more than one; what is a URI is never taken from where people choose names."""
    for name in ("ambiguous", "spiffe://x/a"):
        if not service.events("1", f"type LIKE 'access_key.%' AND details ->> 'name' = '{name}'"):
            Keys(service).grant_certificate(name, rule("read"))
    file = authority.issue(*common_names, uris=uris)
    assert ask(service, authority.client(file)).json == FORBIDDEN
    event = last(service)
    assert (event["type"], event["actor"], event["authn"]) == ("access.denied", None, "none")
    assert event["details"] == {"operation": "read", "rule": "certificate"}


def test_a_key_beside_a_certificate_is_refused(service: Service, authority: Authority) -> None:
    """Even where both would do: whose request it is would be anybody's guess."""
    Keys(service).grant_certificate("with-both", rule("read"))
    key = Keys(service).grant("its-key", rule("read"))
    service.tls = authority.client(authority.issue("with-both"))
    for shown in (key, INTERNAL_KEY, "wrong"):
        assert service.send("POST", LOOKUP, NAME, key=shown).json == FORBIDDEN
        assert last(service)["details"] == {"operation": "read", "rule": "two_keys"}
    bearer = {"Authorization": f"Bearer {key}"}
    assert service.send("POST", LOOKUP, NAME, bearer, key=None).json == FORBIDDEN
    assert service.send("POST", LOOKUP, NAME, {"X-Internal-Key": ""}, key=None).status == 404


def test_a_key_alone_is_as_good_as_it_was(service: Service) -> None:
    """Where certificates are optional."""
    assert service.lookup(**NAME).status == 404
    assert last(service)["authn"] == "internal_key"


def test_when_a_certificate_was_used_last_is_told(service: Service, authority: Authority) -> None:
    """Of each grant its own use, where a name was granted, revoked and granted again."""
    keys, context = Keys(service), authority.client(authority.issue("used"))
    for _ in range(3):
        keys.grant_certificate("used", rule("read"))
        if len(service.events("1", "actor = 'used'")) < 2:
            assert ask(service, context).status == 404
        keys.revoke("used")
    expected = [*service.events("at, ip", "actor = 'used'"), (None, None)]
    query = "SELECT last_used_at FROM secrets.access_keys WHERE name = 'used' ORDER BY granted_at"
    assert service.database.fetch(query) == [(at,) for at, _ in expected]

    async def listed() -> list[grant_list.GrantLine]:
        async with await psycopg.AsyncConnection.connect(service.database.owner_url) as connection:
            return await grant_list.lines(connection, datetime.now(UTC))

    told = [line for line in asyncio.run(listed()) if line.name == "used"]
    assert [(line.last_used_at, line.last_used_from) for line in told] == [
        (at and rfc3339(at), ip) for at, ip in expected
    ]


def test_what_the_authority_did_not_issue_ends_in_the_handshake(
    service: Service, authority: Authority
) -> None:
    """Another authority's, one that signs itself, an expired one, and a server's."""
    with folder() as place:
        other = Authority(place)
        bad = [
            other.issue("deploy"),
            Authority(place, "test authority").issue("deploy"),
            authority.issue("deploy", own=True),
            authority.issue("deploy", lasts=timedelta(seconds=-1)),
            authority.issue("deploy", usage=SERVER),
        ]
        before = service.events("position")
        for file in bad:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask(service, authority.client(file))
        assert service.events("position") == before
    lines = service.log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []


def test_a_certificate_that_expires_opens_nothing_on_an_open_connection(
    service: Service, authority: Authority
) -> None:
    """The handshake was long ago; each request is judged by the time of its own event."""
    Keys(service).grant_certificate("expiring", rule("read"))
    service.tls = authority.client(authority.issue("expiring", lasts=timedelta(seconds=4)))
    statuses: list[int] = []
    with closing(service.connection()) as connection:
        connection.connect()
        sock = connection.sock
        give_up = time.monotonic() + 20
        while 403 not in statuses and time.monotonic() < give_up:
            connection.request("POST", LOOKUP, json.dumps(NAME), {"Content-Type": JSON})
            response = connection.getresponse()
            statuses.append(response.status)
            assert json.loads(response.read())
            assert connection.sock is sock
            time.sleep(0.2)
    assert (statuses[0], statuses[-1]) == (404, 403)
    event = last(service)
    assert (event["actor"], event["authn"]) == (None, "none")
    assert isinstance(event["details"], dict)
    assert (event["details"]["rule"], event["details"]["name"]) == ("expired", "expiring")


def test_a_revoked_grant_ends_on_an_open_connection(service: Service, authority: Authority) -> None:
    """A certificate needs no list of revoked ones to be of no use here."""
    Keys(service).grant_certificate("revoking", rule("read"))
    service.tls = authority.client(authority.issue("revoking"))
    statuses: list[int] = []
    with closing(service.connection()) as connection:
        for _ in range(2):
            connection.request("POST", LOOKUP, json.dumps(NAME), {"Content-Type": JSON})
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
            if len(statuses) == 1:
                Keys(service).revoke("revoking")
    assert statuses == [404, 403]


def test_a_certificate_opens_auditors_paths_by_its_right(
    service: Service, authority: Authority
) -> None:
    """What is only read is judged by the certificate, too."""
    Keys(service).grant_certificate("auditing", {"allow": ["audit"]})
    service.tls = authority.client(authority.issue("auditing"))
    assert service.send("GET", "/internal/audit/events", key=None).status == 200
    assert service.send("POST", LOOKUP, NAME, key=None).status == 403


@pytest.mark.parametrize(
    ("version", "ciphers", "agreed"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0", False),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA", False),
        (ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256", False),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256", True),
        (ssl.TLSVersion.TLSv1_3, "ALL", True),
    ],
    ids=["1.1", "1.2 with CBC", "1.2 without ECDHE", "1.2", "1.3"],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_versions_and_suites(
    service: Service, authority: Authority, version: ssl.TLSVersion, ciphers: str, agreed: bool
) -> None:
    """RFC 9325: TLS 1.2 with AEAD and forward secrecy, or 1.3; and no ticket to resume by."""
    context = authority.client()
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(ciphers)
    service.tls = context
    if not agreed:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            service.get("/health/live")
        return
    with closing(service.connection()) as connection:
        connection.request("GET", "/health/live")
        assert connection.getresponse().read()
        assert isinstance(connection.sock, ssl.SSLSocket)
        session = connection.sock.session
        assert session is None or not session.has_ticket


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize(
    "version", [["-tls1_2", "-no_ticket"], ["-tls1_2"], ["-tls1_3"]], ids=["id", "ticket", "PSK"]
)
@pytest.mark.parametrize("asked", ["optional", "required"])
def test_no_session_is_resumed_without_the_certificate(
    cluster: Cluster, authority: Authority, version: list[str], asked: str
) -> None:
    """In each connection a client is who shows a certificate in it, whatever it kept of before.

    Neither who has a session and no certificate, nor who has both, is let in by the session.
    """
    shown = authority.issue("resuming")
    own = ["-cert", str(shown), "-key", str(shown)]
    with over_tls(cluster, authority, {"TLS_CLIENT_CERT": asked}, shown) as service:
        Keys(service).grant_certificate("resuming", rule("read"))
        with folder() as place:
            kept = place / "session"
            said = _openssl(service, *version, *own, "-sess_out", str(kept))
            assert (b"HTTP/1.1 404" in said, b"\nNew, TLS" in said) == (True, True)
            again = ["-sess_in", str(kept)] if kept.exists() else []
            for _ in range(6):  # there are two workers, and either may know the session
                honest = _openssl(service, *version, *own, *again)
                assert (b"HTTP/1.1 404" in honest, b"\nReused, TLS" in honest) == (True, False)
                thief = _openssl(service, *version, *again)
                assert (b"HTTP/1.1 404" in thief, b"\nReused, TLS" in thief) == (False, False)


def _openssl(service: Service, *options: str) -> bytes:
    """What openssl's client says of a connection, and is answered to a lookup."""
    body = json.dumps(NAME).encode()
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" % LOOKUP.encode()
    head += b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    where = ["-connect", f"127.0.0.1:{service.port}", "-ign_eof"]
    command = ["openssl", "s_client", *where, *options]
    done = subprocess.run(command, input=head + body, capture_output=True, timeout=30, check=False)
    return done.stdout


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\n\r\n", 400),
        (b"GET /health/live HTTP/1.1\r\nHost: a\r\nX-A: " + b"b" * 2**20, 431),
        (b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200),
    ],
)
def test_what_is_malformed_is_refused_as_in_the_clear(
    service: Service, sent: bytes, status: int
) -> None:
    """One answer, which the client gets, and the end."""
    received, closed = service.raw(sent)
    assert (received[:13], closed) == (b"HTTP/1.1 %d " % status, True)


def test_plain_http_is_not_answered(service: Service) -> None:
    """Who speaks in the clear gets nothing, and nothing of what he sent is on the log."""
    service.tls = None
    received, closed = service.raw(b"GET /health/live?mArKeR HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (b"HTTP/1.1 200" in received, closed) == (False, True)
    assert "mArKeR" not in service.log.read_text()


def test_a_required_certificate_is_demanded_in_the_handshake(
    cluster: Cluster, authority: Authority
) -> None:
    """Without one nothing is answered, whatever the path; a SIGTERM is obeyed in order."""
    shown = authority.issue("required")
    with over_tls(cluster, authority, {"TLS_CLIENT_CERT": "required"}, shown) as service:
        Keys(service).grant_certificate("required", rule("read"))
        assert service.send("POST", LOOKUP, NAME, key=None).status == 404
        assert service.send("GET", "/internal/audit/events", key=None).status == 403
        service.tls = authority.client()
        for path in ("/health/live", LOOKUP):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                service.get(path)


def test_files_are_read_again_on_a_reload_and_kept_where_they_are_bad(
    cluster: Cluster, authority: Authority
) -> None:
    """SIGHUP: a renewed certificate is served; one that cannot be used changes nothing.

    A worker that begins in between does not read the files at all.
    """
    with folder() as place:
        own = place / "server.pem"
        own.write_bytes(authority.issue("127.0.0.1", usage=SERVER).read_bytes())
        changed = {"TLS_CERT_FILE": str(own), "TLS_KEY_FILE": str(own)}
        with over_tls(cluster, authority, changed) as service:
            first = _shown(service)
            own.write_bytes(authority.issue("127.0.0.1", usage=SERVER).read_bytes())
            _reload(service)
            second = _shown(service)
            own.write_text("nothing")
            _reload(service)
            third = _shown(service)
            assert service.lookup(**NAME).status == 404
            own.unlink()
            service.replace_worker()  # the new one reads no file
            assert _shown(service) == third
            service.says("tls_not_reloaded")
            lines = log_lines(service.log.read_text())
            assert [line["event"] for line in lines if "tls" in line["event"]] == [
                "tls_not_reloaded"
            ]
    assert first != second
    assert second == third


def test_an_idle_client_does_not_keep_a_worker_from_its_orderly_end(
    cluster: Cluster, authority: Authority
) -> None:
    """Refusals that were only counted are told of, though a client never says goodbye."""
    with over_tls(cluster, authority) as service:
        with closing(service.connection()) as idle:
            idle.request("GET", "/health/live")
            idle.getresponse().read()
            for _ in range(30):
                assert service.send("POST", LOOKUP, NAME, key="wrong").status == 403
            os.kill(service.pid, signal.SIGTERM)
            until(lambda: not service.workers(), "a worker does not end")
        counted = service.events("details ->> 'count'", "type = 'access.counted'")
        told = service.events("1", "type = 'access.denied'")
    assert sum(int(count) for (count,) in counted) + len(told) == 30


def test_serve_serves_it(cluster: Cluster, authority: Authority) -> None:
    """The command itself: files at the start, and again at a reload."""
    with fresh_database(cluster, TEMPLATE) as database, folder() as place:
        own = place / "server.pem"
        own.write_bytes(authority.issue("127.0.0.1", usage=SERVER).read_bytes())
        settings = {"TLS_CERT_FILE": str(own), "TLS_KEY_FILE": str(own)}
        with serving(
            database.service_url,
            place / "gunicorn.log",
            settings=settings,
            tls=authority.client(),
            by="serve",
        ) as service:
            service.database = database
            first = _shown(service)
            assert service.lookup(**NAME).status == 404
            own.write_bytes(authority.issue("127.0.0.1", usage=SERVER).read_bytes())
            _reload(service)
            assert _shown(service) not in (None, first)
            assert "Listening at: https://" in service.log.read_text()


def _shown(service: Service) -> bytes | None:
    assert service.tls is not None
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=10) as plain,
        service.tls.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        return sock.getpeercert(binary_form=True)


def _reload(service: Service) -> None:
    before = set(service.workers())
    os.kill(service.pid, signal.SIGHUP)
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        now = set(service.workers())
        if len(now) == 2 and not now & before:
            break
        time.sleep(0.05)
    while time.monotonic() < give_up:
        try:
            if service.get("/health/ready").status == 200:
                return
        except OSError:
            time.sleep(0.05)


def test_handshakes_that_are_never_finished_count(cluster: Cluster, authority: Authority) -> None:
    """They take their source's places, no more; others shake hands, and places come back."""
    caps = {"MAX_CONNECTIONS": "40", "MAX_CONNECTIONS_PER_SOURCE": "10"}
    with over_tls(cluster, authority, caps) as running, ExitStack() as stack:
        for _ in range(60):  # none of them says a word
            where = ("127.0.0.1", running.port)
            stack.enter_context(socket.create_connection(where, source_address=("127.0.7.1", 0)))
        running.source = "127.0.7.2"
        key = Keys(running).grant("other", rule("read"))
        assert running.send("POST", LOOKUP, NAME, key=key).status == 404
        until(lambda: running.metrics()[TURNED_AWAY] > 0, "no handshake was refused")
        give_up = time.monotonic() + 20
        stack.close()
        running.source = "127.0.7.1"
        while True:
            try:
                if running.send("POST", LOOKUP, NAME, key=key).status == 404:
                    break
            except OSError:
                pass
            assert time.monotonic() < give_up, "a place that was given up is counted still"
            time.sleep(0.2)

"""`secrets-broker verify --url`: another broker's whole ledger over HTTP."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from secrets_broker.ledger.transparency_log.note import SigningKey
from secrets_broker.settings import Settings
from secrets_broker.tools.shared.remote import NO_TLS, Remote
from secrets_broker.tools.verify.run_checks import VerifyPlan
from secrets_broker.tools.verify.sources.source_protocol import SourceError
from secrets_broker.tools.verify.verification import Job, LedgerLocation
from tests.conftest import AUDITOR_KEY, SIGNING_KEY, Database
from tests.http.conftest import serving
from tests.tools.verify.changing import Report, of_job
from tests.tools.verify.verdicts import bad
from tests.waiting import until

VERIFIER = SigningKey.parse(SIGNING_KEY).verifier


def verified(url: str, key: str = AUDITOR_KEY) -> Report:
    """Verify a broker, with an auditor's key and no other setting."""
    settings = Settings({"AUDITOR_KEY": key})
    place = LedgerLocation(remote=Remote.of(settings, url, NO_TLS))
    return of_job(Job(settings, VerifyPlan((VERIFIER,)), None, place))


def test_another_broker_is_verified_over_http(database: Database, tmp_path: Path) -> None:
    """Entries, leaves, tiles and every checkpoint; then the first position that was changed."""
    with serving(database.service_url, tmp_path / "log") as service:
        for number in range(5):
            stored = service.upsert(host=f"h{number}", purpose="ssh", password="p")
            assert stored.status == 200
        for _ in range(299):
            service.lookup(host="h1", purpose="ssh")
        url = f"http://127.0.0.1:{service.port}"
        until_published(database, 305)
        report = verified(url)
        assert (report.ok, report.size, report.problems) == (True, 305, [])
        assert report.checked["events"] == report.checked["leaves"] == 305
        assert report.checked["nodes"] == 1
        assert report.checked["signatures"] == report.checked["checkpoints"] >= 1
        assert "over HTTP" in report.not_checked[0]
        with pytest.raises(SourceError, match="does not take this AUDITOR_KEY"):
            verified(url, "another-key-of-nobody")
        database.execute("ALTER TABLE ledger.events DISABLE TRIGGER ALL")
        database.execute("UPDATE ledger.events SET reason = 'x' WHERE position = 77")
        bad(verified(url), 77, "leaf")


def until_published(database: Database, size: int) -> None:
    """Wait for a checkpoint of that size."""
    query = "SELECT size FROM ledger.published"
    until(lambda: database.fetch(query) == [(size,)], "no checkpoint was published", seconds=30)


@contextmanager
def redirecting(to: str) -> Iterator[tuple[str, list[str | None]]]:
    """A server that sends everybody elsewhere, and remembers the keys that it got."""
    seen: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(302)
            self.send_header("Location", to)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def test_the_key_follows_no_redirect() -> None:
    """A broker that points elsewhere is an error; the other host never sees the key."""
    with (
        redirecting("http://127.0.0.1:1/") as (second, seen),
        redirecting(second) as (first, own),
        pytest.raises(SourceError, match="points elsewhere"),
    ):
        verified(first)
    assert (own, seen) == ([f"Bearer {AUDITOR_KEY}"], [])

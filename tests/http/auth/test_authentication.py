"""Which key opens what: an auditor's key opens what is for auditors, and no secret, ever."""

import pytest

from secrets_broker.http.auth.authentication import Authentication
from secrets_broker.http.routes import SERVICE, Route
from secrets_broker.settings import Settings, SettingsError
from tests.conftest import AUDITOR_KEY, INTERNAL_KEY
from tests.http.client import DELETE, LOOKUP, UPSERT, Service
from tests.http.operations import opens

DUE = "/internal/audit/due"
NAME = {"host": "doors.example", "purpose": "ssh"}
DISCLOSED = "type LIKE 'credential.%'"
CALLS = [
    ("POST", UPSERT, {**NAME, "password": "not-a-real-password"}),
    ("POST", LOOKUP, NAME),
    ("DELETE", f"{DELETE}?host=doors.example&purpose=ssh", None),
]


def route(path: str) -> Route:
    """The route of a path."""
    found = SERVICE.match(path.encode())
    assert found is not None
    return found.route


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_the_auditors_key_opens_no_secret(
    service: Service, method: str, path: str, body: dict[str, str] | None
) -> None:
    """Neither as X-Internal-Key nor as a bearer token; and nothing but that is recorded."""
    before = service.events("position", DISCLOSED)
    bearer = {"Authorization": f"Bearer {AUDITOR_KEY}"}
    assert service.send(method, path, body, key=AUDITOR_KEY).status == 403
    assert service.send(method, path, body, bearer, key=None).status == 403
    assert service.events("position", DISCLOSED) == before


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_bearer_token_is_as_good_as_the_header(service: Service, scheme: str) -> None:
    """RFC 6750, the scheme in any case; a wrong token opens nothing."""
    right = {"Authorization": f"{scheme} {AUDITOR_KEY}"}
    assert service.send("GET", DUE, headers=right, key=None).status == 200
    wrong = {"Authorization": f"{scheme} {AUDITOR_KEY}x"}
    assert service.send("GET", DUE, headers=wrong, key=None).status == 403


@pytest.mark.parametrize("path", ["/log/checkpoint", "/internal/audit/events"])
def test_the_internal_key_does_not_open_what_is_for_auditors(path: str) -> None:
    """A service that holds it need not see who else asks for what."""
    assert not opens(Authentication(INTERNAL_KEY, AUDITOR_KEY), route(path), INTERNAL_KEY)
    assert opens(Authentication(INTERNAL_KEY, AUDITOR_KEY), route(path), AUDITOR_KEY)


@pytest.mark.parametrize("key", ["", "None", INTERNAL_KEY])
def test_without_an_auditors_key_the_auditors_paths_are_shut(key: str) -> None:
    """Nothing that a caller could present opens them."""
    assert not opens(Authentication(INTERNAL_KEY), route("/log/checkpoint"), key)


def test_one_key_for_both_is_refused() -> None:
    """It would open secrets to auditors; the error names the setting and not the key."""
    settings = Settings(
        {"INTERNAL_KEY": "the-same-key-of-both", "AUDITOR_KEY": "the-same-key-of-both"}
    )
    with pytest.raises(SettingsError, match="AUDITOR_KEY is the same as INTERNAL_KEY") as caught:
        _ = settings.auditor_key
    assert "the-same-key-of-both" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "sent", "expected"),
    [
        (1, [b"X-Internal-Key: KEY", b"X-Internal-Key: KEY"], "two_keys"),
        (2, [b"X-Internal-Key: KEY", b"X-Internal-Key:"], "two_keys"),
        (3, [b"X-Internal-Key: KEY", b"Authorization: Bearer KEY"], "two_keys"),
        (4, [b"Authorization: Bearer KEY", b"Authorization: Bearer KEY"], "two_keys"),
        (5, [b"Authorization: Basic x", b"Authorization: Bearer KEY"], "two_keys"),
        (6, [b"X-Internal-Key: KEY,KEY"], "unknown_key"),
        (7, [b"X_Internal_Key: KEY"], "no_key"),
        (8, [b"Authorization: Basic KEY"], "no_key"),
        (9, [b"X-Internal-Key: " + b"k" * 20_000], "unknown_key"),
    ],
)
def test_what_is_not_one_key_is_refused_by_rule(
    service: Service, number: int, sent: list[bytes], expected: str
) -> None:
    """403 to the last byte the same, and the record says why and names nobody."""
    service.source = f"127.0.6.{number}"
    head = [b"POST %s HTTP/1.1" % LOOKUP.encode(), b"Host: a", b"Content-Length: 0", *sent]
    text = b"\r\n".join(head).replace(b"KEY", INTERNAL_KEY.encode())
    received, _ = service.raw(text + b"\r\n\r\n", seconds=0.3)
    assert received.startswith(b"HTTP/1.1 403 ")
    body = b'{"reason":"forbidden","detail":"Invalid or missing X-Internal-Key header"}'
    assert received.endswith(b"\r\n\r\n" + body)
    found = service.events("type, actor, authn, details", f"ip = '{service.source}'")
    details = {"operation": "read", "rule": expected}
    assert found == [("access.denied", None, "none", details)]
    service.source = "127.0.0.1"

"""Whatever is wrong with a request: the right refusal, and never its value in an answer or log."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http.client import DELETE, JSON, LOOKUP, UPSERT, Answer, Service

MARK = "mArKeR7731"
FORBIDDEN = {"reason": "forbidden", "detail": "Invalid or missing X-Internal-Key header"}
GOOD = {"host": "bad.example", "purpose": "ssh", "password": "p"}
FUZZ = settings(
    max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@pytest.fixture(autouse=True)
def nothing_leaks(service: Service) -> Iterator[None]:
    """No test of this module may leave its marker, or a traceback, in the log."""
    yield
    log = service.log.read_text()
    assert MARK not in log
    assert "Traceback" not in log
    assert "unexpected_error" not in log


def refused(answer: Answer, status: int, reason: str) -> Any:
    """Hold an answer to the form of an error, and give its body."""
    assert MARK not in answer.text
    assert (answer.status, answer.json["reason"]) == (status, reason)
    return answer.json


def invalid(answer: Answer, field: str | None = None) -> None:
    """Hold an answer to a 400 that names the field."""
    errors = refused(answer, 400, "invalid_request")["errors"]
    assert all(set(error) == {"field", "message"} and error["message"] for error in errors)
    if field is not None:
        assert [error["field"] for error in errors] == [field]


@pytest.mark.parametrize("key", [None, "wrong", MARK, "ключ".encode(), b"\xff\xfe", " "])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", UPSERT), ("POST", LOOKUP), ("DELETE", DELETE)]
)
def test_without_the_key_nothing_is_looked_at(
    service: Service, key: str | bytes | None, method: str, path: str
) -> None:
    """A wrong or missing key is 403 whatever else is wrong with the request."""
    headers = {} if key is None else {"X-Internal-Key": key}
    bad = b"{" + MARK.encode()
    answer = service.send(method, f"{path}?%ff", bad, headers, key=None, media_type="text/plain")
    assert (answer.status, answer.json) == (403, FORBIDDEN)


def test_a_key_too_many_is_a_wrong_key(service: Service) -> None:
    """Two keys are none: which of them counts is not for readers to disagree on."""
    head = f"GET {LOOKUP} HTTP/1.1\r\nHost: a\r\nX-Internal-Key: {service.internal_key}\r\n"
    received, _ = service.raw(f"{head}X-Internal-Key: other\r\n\r\n".encode(), seconds=0.5)
    assert received.startswith(b"HTTP/1.1 403 ")


def test_what_does_not_exist_is_so_whoever_asks(service: Service) -> None:
    """One answer, of which no key changes a byte, and nothing of what was asked for is in it."""
    paths = ("/internal/nothing", f"/{MARK}", f"{LOOKUP}/")
    answers = [service.send("GET", path, key=key) for path in paths for key in ("", "wrong", None)]
    assert {answer.status for answer in answers} == {404}
    assert len({answer.body for answer in answers}) == 1
    assert answers[0].json["reason"] == "no_such_path"
    assert answers[0].json["reason"] != service.lookup(host="nowhere", purpose="x").json["reason"]


NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "broken": b'{"host": "' + MARK.encode(),
    "trailing": json.dumps(GOOD).encode() + MARK.encode(),
    "two documents": json.dumps(GOOD).encode() * 2,
    "single quotes": b"{'host': '%s'}" % MARK.encode(),
    "trailing comma": b'{"host": "%s",}' % MARK.encode(),
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "two BOMs": b"\xef\xbb\xbf" * 2 + json.dumps(GOOD).encode(),
    "Latin-1": b'{"host": "%s\xfc"}' % MARK.encode(),
    "a surrogate in UTF-8": b'{"host": "%s\xed\xa0\x80"}' % MARK.encode(),
    "a raw control character": b'{"host": "%s\n"}' % MARK.encode(),
    "100,000 open brackets": b"[" * 100_000,
    "100,000 open objects": b'{"a":' * 50_000,
    "100,000 brackets, closed": b"[" * 100_000 + b"]" * 100_000,
}


@pytest.mark.parametrize("name", NOT_JSON)
@pytest.mark.parametrize("path", [UPSERT, LOOKUP])
def test_what_is_not_json_is_refused(service: Service, path: str, name: str) -> None:
    """A body that is not one JSON text in UTF-8 is a 400."""
    invalid(service.send("POST", path, NOT_JSON[name]))


@pytest.mark.parametrize("text", ["[]", "null", "1", "true", f'"{MARK}"', f'["{MARK}"]'])
def test_json_that_is_no_object_is_refused(service: Service, text: str) -> None:
    """A body is an object."""
    invalid(service.send("POST", UPSERT, text.encode()))
    invalid(service.send("POST", LOOKUP, text.encode()))


DEEP: Any = MARK
for _ in range(80):
    DEEP = [DEEP]

WRONG_FIELDS: list[tuple[str, Any]] = [
    *[(field, 7731) for field in ("host", "purpose", "password", "username", "domain")],
    *[(field, [MARK]) for field in ("host", "password", "username", "additional_data")],
    *[(field, None) for field in ("host", "purpose", "password")],
    *[(field, "") for field in ("host", "purpose")],
    *[(field, MARK + "\0") for field in ("host", "purpose", "password", "username", "domain")],
    *[(field, MARK + "\ud800") for field in ("host", "purpose", "password", "username", "domain")],
    ("host", MARK * 26),
    ("purpose", MARK * 6),
    ("username", MARK * 26),
    ("domain", MARK * 26),
    ("password", MARK * 900),
    ("password", "é" * 4097),
    ("additional_data", MARK),
    ("additional_data", {"a": MARK * 3300}),
    ("secret_data", MARK),
    ("secret_data", {MARK + "\0": 1}),
    ("secret_data", {"a": {"b": [MARK + "\udfff"]}}),
    ("additional_data", {MARK: 2**53}),
    ("additional_data", {MARK: -(2**53)}),
    ("secret_data", {MARK: [10**40]}),
    ("secret_data", {MARK: DEEP}),
]


@pytest.mark.parametrize(("field", "value"), WRONG_FIELDS)
def test_a_field_that_breaks_a_rule_is_named_and_not_quoted(
    service: Service, field: str, value: Any
) -> None:
    """A 400 says which field is wrong and what the rule is, never what was sent."""
    invalid(service.send("POST", UPSERT, {**GOOD, field: value}), field)
    if field in ("host", "purpose"):
        name = {"host": "bad.example", "purpose": "ssh", field: value}
        invalid(service.send("POST", LOOKUP, name), field)


@pytest.mark.parametrize("field", ["host", "purpose", "password"])
def test_a_missing_field_is_named(service: Service, field: str) -> None:
    """What is required cannot be left out."""
    rest = {name: value for name, value in GOOD.items() if name != field}
    invalid(service.send("POST", UPSERT, rest), field)


def test_an_unknown_field_is_refused_without_its_name(service: Service) -> None:
    """A key can be a value too, pasted in the wrong place."""
    invalid(service.send("POST", UPSERT, {**GOOD, MARK: 1}))
    invalid(service.send("POST", LOOKUP, {"host": "h", "purpose": "p", MARK: 1}))
    invalid(service.send("POST", LOOKUP, GOOD))


NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "1e-400",
    "-0",
    "-0.0",
    "01",
    "1.",
    ".5",
]
NUMBERS += [
    "9007199254740992",
    "0.1000000000000000055511151231257827",
    "9" * 5000,
    "1." + "1" * 5000,
]
NUMBERS += ["1e9999999999999999999", "0x10", "1_000", "+1"]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda text: text[:24])
@pytest.mark.parametrize("field", ["additional_data", "secret_data"])
def test_a_number_that_readers_disagree_on_is_refused(
    service: Service, number: str, field: str
) -> None:
    """What one JSON reader keeps and another changes cannot be promised to come back."""
    start = json.dumps(GOOD)[:-1]
    invalid(service.send("POST", UPSERT, f'{start}, "{field}": {{"{MARK}": {number}}}}}'.encode()))


@pytest.mark.parametrize(
    "text",
    [
        '{"host": "bad.example", "host": "%s", "purpose": "ssh", "password": "p"}',
        '{"host": "h", "purpose": "ssh", "password": "%s", "pass\\u0077ord": "p"}',
        '{"host": "h", "purpose": "ssh", "password": "p", "additional_data": {"%s": 1, "%s": 2}}',
    ],
    ids=["top", "escaped", "nested"],
)
def test_a_key_twice_is_refused(service: Service, text: str) -> None:
    """Which of two values counts is not for readers to disagree on."""
    invalid(service.send("POST", UPSERT, text.replace("%s", MARK).encode()))


def _chunks(size: int) -> Iterator[bytes]:
    for _ in range(0, size, 65_536):
        yield (MARK.encode() * 6554)[:65_536]


@pytest.mark.parametrize(
    "body",
    [lambda: MARK.encode() * 2**20, lambda: _chunks(10 * 2**20), lambda: MARK.encode() * 27_000],
    ids=["10 MiB with a length", "10 MiB in chunks", "just over 256 KiB"],
)
@pytest.mark.parametrize("path", [UPSERT, LOOKUP])
def test_a_body_that_is_too_large_is_413(
    service: Service, path: str, body: Callable[[], Any]
) -> None:
    """Nobody makes the service hold more than a request can need, length announced or not."""
    refused(service.send("POST", path, body()), 413, "too_large")


@pytest.mark.parametrize(
    "media_type", [None, "text/plain", "application/x-www-form-urlencoded", f"text/{MARK}", "jsonx"]
)
def test_another_media_type_is_415(service: Service, media_type: str | None) -> None:
    """A body is JSON and says so."""
    for path in (UPSERT, LOOKUP):
        answer = service.send("POST", path, {**GOOD, "password": MARK}, media_type=media_type)
        refused(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_a_media_type_may_have_parameters_and_any_case(service: Service, media_type: str) -> None:
    """What names JSON by the rules of HTTP is taken."""
    name = {"host": "media.example", "purpose": "ssh"}
    assert service.send("POST", LOOKUP, name, media_type=media_type).status == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"])
def test_another_method_is_405(service: Service, method: str) -> None:
    """Only what a path knows is done; the Allow header says what that is."""
    answer = service.send(method, LOOKUP)
    assert answer.status == 405
    assert answer.headers["Allow"] == "POST"


QUERIES: list[tuple[str, str | None]] = [
    ("", None),
    ("host=a", "purpose"),
    ("purpose=a", "host"),
    (f"host={MARK}&host={MARK}&purpose=ssh", ""),
    (f"host={MARK}%ff&purpose=ssh", ""),
    (f"host={MARK}%ed%a0%80&purpose=ssh", ""),
    (f"host={MARK}%00&purpose=ssh", "host"),
    (f"host={MARK * 26}&purpose=ssh", "host"),
    (f"host=a&purpose={MARK * 6}", "purpose"),
    ("host=&purpose=ssh", "host"),
    (f"host=a&purpose=b&{MARK}=c", ""),
    (f"host=a&purpose=b&{MARK}", ""),
    ("&".join(f"{MARK}{number}=1" for number in range(500)), ""),
]


@pytest.mark.parametrize(("query", "field"), QUERIES, ids=lambda text: str(text)[:24])
def test_a_query_is_held_to_the_same_rules(service: Service, query: str, field: str | None) -> None:
    """A delete's name comes once, in UTF-8, within the limits, and alone."""
    invalid(service.delete(query), field)


LABELS: list[tuple[str, str | bytes]] = [
    ("X-Service-Name", MARK * 11),
    ("X-Access-Reason", MARK * 51),
    *[
        ("X-Service-Name", MARK.encode() + bad)
        for bad in (b"\tx", "\x85".encode(), b"\xff", b"\xed\xa0\x80", "\u202e".encode())
    ],
    *[("X-Access-Reason", MARK.encode() + bad) for bad in (b"\tx", "\x85".encode(), b"\xff\x85")],
]


@pytest.mark.parametrize(("name", "value"), LABELS)
def test_a_label_that_is_not_fit_for_the_record_is_refused(
    service: Service, name: str, value: str | bytes
) -> None:
    """Names and reasons are short, without control characters, or the request is a 400."""
    headers = {name: value}
    invalid(service.lookup(headers, host="bad.example", purpose="ssh"), name)
    invalid(service.delete("host=bad.example&purpose=ssh", headers), name)


def test_a_label_at_its_limit_is_taken(service: Service) -> None:
    """The limit counts characters, not bytes."""
    headers = {"X-Service-Name": ("ü" * 100).encode(), "X-Access-Reason": ("ß" * 500).encode()}
    assert service.lookup(headers, host="limit.example", purpose="ssh").status == 404


@FUZZ
@given(body=st.binary(max_size=200), path=st.sampled_from([UPSERT, LOOKUP]))
def test_random_bytes_are_400(service: Service, body: bytes, path: str) -> None:
    """No bytes make the service fail."""
    invalid(service.send("POST", path, MARK.encode() + body))
    assert service.send("POST", path, body).status == 400


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_names = st.sampled_from(
    ["host", "purpose", "password", "username", "domain", "additional_data", "secret_data"]
)
_likely = st.dictionaries(
    _names, _json | st.text(alphabet=st.characters(), max_size=20), max_size=7
)


@FUZZ
@given(fields=_likely | st.dictionaries(st.text(), _json, max_size=4))
def test_a_random_object_is_stored_or_refused(service: Service, fields: dict[str, Any]) -> None:
    """An object is a 200 or a 400, never a 500; where it is a 200, it comes back as it was."""
    answer = service.send("POST", UPSERT, fields)
    assert answer.status in (200, 400)
    if answer.status == 200:
        name = {"host": fields["host"], "purpose": fields["purpose"]}
        found = service.send("POST", LOOKUP, name).json
        assert found["password"] == fields["password"]
        assert found["additional_data"] == (fields.get("additional_data") or {})


@FUZZ
@given(data=st.dictionaries(st.text(max_size=5), _json, max_size=3), password=st.text(max_size=30))
def test_random_content_is_stored_or_refused_without_an_echo(
    service: Service, data: dict[str, Any], password: str
) -> None:
    """Content round-trips, or is refused; neither answer of an upsert holds any of it."""
    fields = {"host": "fuzz.example", "purpose": "x", "password": MARK + password}
    answer = service.send("POST", UPSERT, {**fields, "secret_data": {**data, "m": MARK}})
    assert answer.status in (200, 400)
    assert MARK not in answer.text
    if answer.status == 200:
        found = service.send("POST", LOOKUP, {"host": "fuzz.example", "purpose": "x"}).json
        assert found["password"] == MARK + password
        assert found["secret_data"] == {**data, "m": MARK}


@pytest.mark.parametrize("path", [UPSERT, LOOKUP])
def test_an_error_is_json_with_an_id(service: Service, path: str) -> None:
    """An error can be found again in the log by its X-Request-Id."""
    answer = service.send("POST", path, b"{", {"X-Request-Id": "find-me"})
    assert answer.headers["X-Request-Id"] == "find-me"
    assert answer.headers["Content-Type"] == JSON
    service.says("find-me")

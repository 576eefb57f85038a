"""The three endpoints, as a caller sees them."""

import json

import pytest

from tests.http.client import DELETE, LOOKUP, UPSERT, Headers, Service


def test_upsert_answers_with_the_credential_it_made(service: Service) -> None:
    """An upsert's answer names the credential, and holds nothing of its content."""
    answer = service.upsert(
        host="up.example", purpose="winrm", username="admin", password="p-one", domain="CORP"
    )
    assert answer.status == 200
    position = int(answer.headers["X-Ledger-Position"])
    assert answer.json == {
        "success": True,
        "credential_id": position + 1,
        "host": "up.example",
        "purpose": "winrm",
        "version": 1,
    }


def test_upsert_of_a_name_that_is_there_makes_its_next_version(service: Service) -> None:
    """The id stays, the version grows, and the newest content is served."""
    first = service.upsert(host="again.example", purpose="ssh", password="p-one").json
    second = service.upsert(host="again.example", purpose="ssh", password="p-two").json
    assert (second["credential_id"], second["version"]) == (first["credential_id"], 2)
    found = service.lookup(host="again.example", purpose="ssh").json
    assert (found["password"], found["version"]) == ("p-two", 2)


def test_lookup_gives_all_that_was_stored(service: Service) -> None:
    """What was stored comes back, whole, under the same names."""
    stored = {
        "host": "192.0.2.11",
        "purpose": "winrm",
        "username": "admin",
        "password": "p-three",
        "domain": "CORP",
        "additional_data": {"port": 5986, "note": "rack 4"},
        "secret_data": {"pem": "-----BEGIN-----", "parts": [1, None, {"a": False}]},
    }
    service.send("POST", UPSERT, stored)
    answer = service.lookup(host="192.0.2.11", purpose="winrm")
    assert answer.status == 200
    assert answer.json == {**stored, "version": 1}


def test_what_is_optional_may_be_left_out(service: Service) -> None:
    """Absent fields come back as null, data as an empty object, and secret_data not at all."""
    service.upsert(host="bare.example", purpose="ssh", password="")
    assert service.lookup(host="bare.example", purpose="ssh").json == {
        "host": "bare.example",
        "purpose": "ssh",
        "username": None,
        "password": "",
        "domain": None,
        "additional_data": {},
        "version": 1,
    }


def test_null_is_the_same_as_absent(service: Service) -> None:
    """A client that writes its empty fields as null is not refused."""
    fields = dict.fromkeys(["username", "domain", "additional_data", "secret_data"])
    answer = service.upsert(host="null.example", purpose="ssh", password="p", **fields)
    assert answer.status == 200
    assert service.lookup(host="null.example", purpose="ssh").json["additional_data"] == {}


@pytest.mark.parametrize("host", ["bücher.example", "主机-7", "🗝 host", "a b%2Fc?d&e=f", "a" * 255])
def test_any_text_can_be_a_name(service: Service, host: str) -> None:
    """A host in any script round-trips through body, record and query."""
    assert service.upsert(host=host, purpose="å", password="ключ🔑").json["host"] == host
    found = service.lookup(host=host, purpose="å").json
    assert (found["host"], found["password"]) == (host, "ключ🔑")
    query = "host=" + "".join(f"%{byte:02X}" for byte in host.encode()) + "&purpose=%C3%A5"
    assert service.delete(query).json == {"success": True, "host": host, "purpose": "å"}


def test_data_round_trips_with_its_floats(service: Service) -> None:
    """Every number that a double holds as written comes back equal."""
    data = {
        "f": [0.1, -1.5e-7, 1e15, 2.5, 5e-324],
        "i": [2**53 - 1, -(2**53 - 1), 0],
        "é": {"": []},
    }
    service.upsert(
        host="float.example", purpose="x", password="p", additional_data=data, secret_data=data
    )
    found = service.lookup(host="float.example", purpose="x").json
    assert found["additional_data"] == data
    assert found["secret_data"] == data


def test_the_largest_of_everything_is_taken(service: Service) -> None:
    """The limits are what can be stored, also where each byte is escaped on its way."""
    data = {"a": "\x01" * 5_000}
    fields = {
        "host": "\U0001f511" * 255,
        "purpose": "\U0001f511" * 50,
        "username": "u" * 255,
        "domain": "d" * 255,
        "password": "\x01" * 8192,
        "secret_data": data,
    }
    assert service.send("POST", UPSERT, fields).status == 200
    found = service.lookup(host=fields["host"], purpose=fields["purpose"]).json
    assert (found["password"], found["secret_data"]) == (fields["password"], data)


def test_delete_takes_a_credential_out(service: Service) -> None:
    """After a delete there is nothing to look up, and nothing to delete again."""
    service.upsert(host="gone.example", purpose="ssh", password="p")
    answer = service.delete("host=gone.example&purpose=ssh")
    assert answer.status == 200
    assert answer.json == {"success": True, "host": "gone.example", "purpose": "ssh"}
    assert int(answer.headers["X-Ledger-Position"]) >= 0
    for later in (
        service.lookup(host="gone.example", purpose="ssh"),
        service.delete("host=gone.example&purpose=ssh"),
    ):
        assert (later.status, json.loads(later.body)) == (404, {"reason": "not_found"})


def test_what_is_not_there_is_404_and_still_an_event(service: Service) -> None:
    """A 404 says no more than not_found, and the attempt is on the record."""
    answer = service.lookup(host="never.example", purpose="ssh")
    assert (answer.status, answer.body) == (404, b'{"reason":"not_found"}')
    position = int(answer.headers["X-Ledger-Position"])
    where = f"position = {position}"
    assert service.events("type, host, ok, error", where) == [
        ("credential.read", "never.example", False, "not_found")
    ]


def test_every_answer_with_an_event_names_its_position(service: Service) -> None:
    """X-Ledger-Position is the place of this request's own event."""
    name = {"host": "position.example", "purpose": "ssh"}
    answers = [
        service.upsert(**name, password="p"),
        service.upsert(**name, password="q"),
        service.lookup(**name),
        service.delete("host=position.example&purpose=ssh"),
    ]
    positions = [int(answer.headers["X-Ledger-Position"]) for answer in answers]
    recorded = service.events("position, type", "host = 'position.example'")
    kinds = ["created", "updated", "read", "deleted"]
    assert recorded == [
        (position, f"credential.{kind}") for position, kind in zip(positions, kinds, strict=True)
    ]


def test_an_answer_without_an_event_names_no_position(service: Service) -> None:
    """A request that breaks a rule has no place in the ledger; nor is a stranger told of his."""
    before = service.database.fetch(COUNT)
    assert service.lookup(host="", purpose="").headers["X-Ledger-Position"] is None
    assert service.database.fetch(COUNT) == before
    assert service.send("POST", LOOKUP, {}, key="wrong").headers["X-Ledger-Position"] is None


COUNT = "SELECT count(*) FROM ledger.events"


def test_headers_say_who_asks_and_why(service: Service) -> None:
    """X-Service-Name becomes the actor, X-Access-Reason the reason, X-Request-Id is kept."""
    headers: Headers = {
        "X-Service-Name": "backup-ünit".encode(),
        "X-Access-Reason": "tägliche Sicherung".encode(),
        "X-Request-Id": "req-4711",
    }
    answer = service.lookup(headers, host="who.example", purpose="ssh")
    assert answer.headers["X-Request-Id"] == "req-4711"
    assert service.events("actor, reason, request_id, authn, ip", "host = 'who.example'") == [
        ("backup-ünit", "tägliche Sicherung", "req-4711", "internal_key", "127.0.0.1")
    ]


def test_without_headers_a_caller_has_a_name_and_an_id_all_the_same(service: Service) -> None:
    """The actor is `internal`, and the id that was made up is in the answer and in the record."""
    answer = service.lookup(host="anonymous.example", purpose="ssh")
    made_up = answer.headers["X-Request-Id"]
    assert len(made_up) >= 16
    assert service.events("actor, reason, request_id", "host = 'anonymous.example'") == [
        ("internal", None, made_up)
    ]


def test_no_header_can_claim_another_address(service: Service) -> None:
    """Who the peer is comes from the socket: X-Forwarded-For is anybody's to write."""
    headers = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
    service.lookup(headers, host="forwarded.example", purpose="ssh")
    assert service.events("ip", "host = 'forwarded.example'") == [("127.0.0.1",)]


def test_no_answer_may_be_stored_by_a_cache(service: Service) -> None:
    """Cache-Control: no-store stands on every answer under /internal/, errors included."""
    service.upsert(host="cache.example", purpose="ssh", password="p")
    answers = [
        service.lookup(host="cache.example", purpose="ssh"),
        service.lookup(host="nowhere.example", purpose="ssh"),
        service.lookup(host=""),
        service.send("GET", LOOKUP),
        service.send("POST", "/internal/other", {}),
        service.send("POST", LOOKUP, {}, key=None),
        service.delete("host=cache.example&purpose=ssh"),
    ]
    assert [answer.status for answer in answers] == [200, 404, 400, 405, 404, 403, 200]
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", UPSERT, "POST"), ("PUT", LOOKUP, "POST"), ("POST", DELETE, "DELETE")],
)
def test_another_method_is_told_which_one_the_path_knows(
    service: Service, method: str, path: str, allowed: str
) -> None:
    """405 has an Allow header with the method, and the error's own body."""
    answer = service.send(method, path, {})
    assert answer.status == 405
    assert allowed in answer.headers["Allow"].split(", ")
    assert answer.json["reason"] == "method_not_allowed"

"""The API's description is true: of the code, and of what a running service answers."""

import asyncio
from typing import Any

import falcon.testing
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode

from secrets_broker.http import problems
from secrets_broker.http.app import create_app
from secrets_broker.http.auth.authentication import Authentication
from secrets_broker.http.resources.health import DETAILS
from secrets_broker.http.router import Lifespan
from secrets_broker.http.routes import SERVICE, TABLE, Match
from secrets_broker.http.server.protocol import NO_ROUTES
from secrets_broker.ledger.access.rights import DELETE, READ, WRITE
from secrets_broker.ledger.access.rights import OPERATIONS as RIGHTS
from secrets_broker.ledger.commands import Delete, Lookup, Upsert
from secrets_broker.ledger.content import FIELDS, FIRST
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.projections.paging.reading_session import Reader
from secrets_broker.projections.queries import (
    credential_list,
    due,
    event_list,
    exposure,
    grant_list,
    history,
    unused,
)
from tests.conftest import AUDITOR_KEY
from tests.http.client import JSON, LOOKUP, UPSERT, Service
from tests.http.declared import DECLARED, OF_REFUSALS
from tests.http.granting import Keys
from tests.http.operations import OPERATIONS, found, opens


@pytest.fixture(scope="module")
def description(service: Service) -> Any:
    """The description as it is served."""
    answer = service.get("/openapi.yaml")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/yaml")
    return schemathesis.openapi.from_file(answer.body.decode()).raw_schema


def test_the_description_is_valid(description: Any) -> None:
    """It is OpenAPI 3.1 by the standard's own schema, with no reference that leads nowhere."""
    OpenAPIV31SpecValidator(description).validate()


LIMITS = ("minLength", "maxLength", "minimum", "maximum", "format")


def resolved(description: Any, schema: Any) -> Any:
    """A schema with its references followed."""
    while "$ref" in schema:
        found = description
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def limits(schema: Any) -> dict[str, Any]:
    """What a schema of one field allows: its types, lengths, range, and format."""
    kinds = schema.get("anyOf", [schema])
    types = {kind for one in kinds for kind in _types(one)}
    return {"types": types, **{name: one[name] for one in kinds for name in LIMITS if name in one}}


def _types(schema: Any) -> list[str]:
    types = schema["type"]
    return types if isinstance(types, list) else [types]


@pytest.mark.parametrize("command", [Upsert, Lookup])
def test_request_bodies_are_described_as_the_code_takes_them(
    description: Any, command: type[msgspec.Struct]
) -> None:
    """Fields, what is required, types and lengths are those of the command."""
    name = command.__name__
    code = msgspec.json.schema(command)["$defs"][name]
    text = description["components"]["schemas"][name]
    assert text["required"] == code["required"]
    assert text["additionalProperties"] == code["additionalProperties"]
    assert {
        field: limits(resolved(description, schema)) for field, schema in text["properties"].items()
    } == {field: limits(schema) for field, schema in code["properties"].items()}


def test_a_lookups_answer_is_described_as_the_fields_are_declared(description: Any) -> None:
    """Every field and no other, of the type and range that it was stored with."""
    text = description["components"]["schemas"]["Credential"]
    assert text["required"] == ["host", "purpose", *FIRST, "version"]
    assert text["properties"].keys() == {"host", "purpose", *FIELDS, "version"}
    code = msgspec.json.schema(Upsert)["$defs"]["Upsert"]["properties"]
    for name in FIELDS:
        given, stored = limits(resolved(description, text["properties"][name])), limits(code[name])
        assert given.pop("types") - {"null"} == stored["types"] - {"null"}
        assert given.items() <= stored.items()


def test_the_query_is_described_as_the_code_takes_it(description: Any) -> None:
    """Parameters of a delete are the fields of the command."""
    code = msgspec.json.schema(Delete)["$defs"]["Delete"]
    operation = description["paths"]["/internal/secrets/credential-delete"]["delete"]
    query = [one for one in operation["parameters"] if one.get("in") == "query"]
    assert all(one["required"] for one in query)
    assert {one["name"]: limits(resolved(description, one["schema"])) for one in query} == {
        field: limits(schema) for field, schema in code["properties"].items()
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("DueLine", due.DueLine),
        ("Version", history.Version),
        ("Exposed", exposure.Exposed),
        ("Receipt", exposure.Disclosure),
        ("EventLine", event_list.EventLine),
        ("UnusedLine", unused.UnusedLine),
        ("AccessKeyLine", grant_list.GrantLine),
        ("CredentialLine", credential_list.CredentialLine),
    ],
)
def test_lines_are_described_as_they_are_given(
    description: Any, name: str, kind: type[msgspec.Struct]
) -> None:
    """Every field of an auditor's line, each always there, and no other."""
    text = description["components"]["schemas"][name]
    assert text["required"] == list(text["properties"]) == list(kind.__struct_fields__)
    assert text["additionalProperties"] is False


def test_every_route_is_described_and_nothing_else(description: Any) -> None:
    """Paths and methods are those of the table; that a HEAD goes with each GET is said once."""
    described = {
        (path, method) for path, methods in description["paths"].items() for method in methods
    }
    assert described == {(route.path, route.method.lower()) for route in SERVICE.all}
    assert "HEAD" in description["info"]["description"]


def test_the_router_has_what_the_table_has_and_nothing_else(keyring: Keyring) -> None:
    """A resource of its own behind each route, for its methods; 405 that names them for others."""
    writer = Writer("postgresql://", keyring, HostCredentials())
    app = create_app(writer, Reader(""), Authentication("key"))
    resources = []
    for route in SERVICE.all:
        rest = "0/000" if route.grammar else None
        target = (route.prefix + (rest or "")).encode()
        assert SERVICE.match(target) == Match(route, rest)
        resource, methods, parameters, path = found(app, target)
        resources.append(resource)
        assert (path, parameters) == (route.path, {"path": rest} if rest else {})
        behind = [name[3:].upper() for name in dir(resource) if name.startswith("on_")]
        assert behind == [route.method]
        for method in route.methods:
            assert methods[method] == getattr(resource, f"on_{route.method.lower()}")
        for method in ({*falcon.COMBINED_METHODS, "QUERY", "get", "M-SEARCH"}) - {*route.methods}:
            with pytest.raises(falcon.HTTPMethodNotAllowed) as caught:
                asyncio.run(methods[method](None, None))
            assert caught.value.headers == {"Allow": ", ".join(route.methods)}
    assert len(set(resources)) == len(SERVICE.all)
    assert found(app, b"/nowhere") is None


def test_the_application_tells_the_protocol_its_routes(keyring: Keyring) -> None:
    """By the state of its lifespan; where that is not there, no target is a route's."""
    writer = Writer("postgresql://", keyring, HostCredentials())
    app = create_app(writer, Reader(""), Authentication("key"))
    handlers = [one for one in app._unprepared_middleware if isinstance(one, Lifespan)]
    scope: dict[str, Any] = {"state": {}}
    asyncio.run(handlers[0].process_startup(scope, {}))
    assert scope["state"] == {TABLE: SERVICE}
    assert [NO_ROUTES.match(route.path.encode()) for route in SERVICE.all] == (
        [None] * len(SERVICE.all)
    )


def test_every_route_says_who_may_have_it() -> None:
    """No right means no key either; each of the rights is one that a grant can have."""
    for route in SERVICE.all:
        assert route.right in (None, *RIGHTS)
        assert route.right is not None or not (route.keys or route.names or route.recheck)
        assert route.right != "admin" or not route.keys
        # What gives something out that was only read is judged again, by the gate or by itself.
        reads = route.method == "GET" and route.right is not None
        assert route.recheck is (reads and route.operation != "credentials")
        assert route.names is (route.right in (READ, WRITE, DELETE) and not reads)
        assert (route.item is not None) is route.path.endswith("-batch")


INTERNAL: Any = {"internalKey": []}
AUDITOR: Any = [{"auditorKey": []}, {"auditorToken": []}]
ADMIN: Any = [{"adminKey": []}, {"adminToken": []}]


def test_which_key_opens_a_path_is_described(description: Any) -> None:
    """Services' paths, auditors' paths, paths for both, and paths without a key."""
    keys = Authentication("internal", "auditor")
    for route in SERVICE.all:
        expected = []
        if route.right is not None:
            expected += [INTERNAL] if opens(keys, route, "internal") else []
            expected += AUDITOR if opens(keys, route, "auditor") else []
            expected = expected or ADMIN
        for operation in description["paths"][route.path].values():
            assert operation.get("security", description["security"]) == expected


def test_every_reason_is_described(description: Any) -> None:
    """A program can rely on the lists of words and statuses; `expired` never has a detail."""
    schemas = description["components"]["schemas"]
    reasons = {problem.reason for problem in DECLARED}
    assert set(schemas["Error"]["properties"]["reason"]["enum"]) == reasons - {"expired"}
    of_items = {*problems.OF_OUTCOMES.values(), *OF_REFUSALS, problems.INVALID}
    item = schemas["ItemProblem"]["properties"]
    assert set(item["reason"]["enum"]) == {problem.reason for problem in of_items}
    assert set(item["status"]["enum"]) == {problem.status for problem in of_items}


def test_every_status_is_described(description: Any) -> None:
    """What an operation may be answered with is what there is a problem of, and a success."""
    answers = [
        int(status)
        for methods in description["paths"].values()
        for operation in methods.values()
        for status in operation["responses"]
    ]
    assert {status for status in answers if status >= 400} == {one.status for one in DECLARED}


def test_what_the_protocol_refuses_is_described_for_every_operation(description: Any) -> None:
    """Whatever is asked for, a request can be malformed, slow or too large: in status and body."""
    operations = [one for methods in description["paths"].values() for one in methods.values()]
    for status, problem in problems.OF_PROTOCOL.items():
        for operation in operations:
            response = resolved(description, operation["responses"][str(status)])
            assert_described(description, response, problem.body)


def assert_described(description: Any, response: Any, body: Any) -> None:
    """Hold an error's body to the response that describes it."""
    schema = response["content"][JSON]["schema"]
    error = resolved(description, schema.get("oneOf", [schema])[-1])
    assert set(error["required"]) <= set(body) <= set(error["properties"])
    assert body["reason"] in error["properties"]["reason"]["enum"]


def test_every_cause_of_not_being_ready_is_described(description: Any) -> None:
    """What anybody may read is a closed list of sentences."""
    answer = description["paths"]["/health/ready"]["get"]["responses"]["503"]
    detail = answer["content"][JSON]["schema"]["oneOf"][0]["properties"]["detail"]
    assert set(detail["enum"]) == set(DETAILS)


MODES = [
    (label, mode)
    for label in OPERATIONS
    for mode in GenerationMode
    # What takes no input cannot be sent a wrong one. Which points of the history there are, a
    # schema cannot say: test_replay.py asks for those. Nor can it say which names were granted.
    if (
        not any(part in label for part in ("/replay", "/access/key-"))
        if mode is GenerationMode.POSITIVE
        else "/internal/" in label and "-batch" not in label  # its items are refused one by one
    )
]


@pytest.mark.parametrize(("label", "mode"), MODES)
def test_the_service_answers_as_described(
    service: Service, label: str, mode: GenerationMode
) -> None:
    """Whatever is sent, right or wrong: status, headers and body of the answer are described."""
    cases = OPERATIONS[label].as_strategy(generation_mode=mode)
    auditors = "/log/" in label or "/internal/audit/" in label
    key = AUDITOR_KEY if auditors else service.internal_key
    if "/internal/access/" in label:
        key = Keys(service).grant(f"{label} {mode.name}", {"allow": ["admin"]})

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def answers(case: Any) -> None:
        # A negative zero is refused, which a JSON schema cannot say: to it, it equals zero.
        assume("-0.0" not in repr(case.body))
        # Nor can it say that 90.0 is not a number of days.
        body = case.body if isinstance(case.body, dict) else {}
        assume(not isinstance(body.get("rotate_after"), float))
        # Nor what is in the past; what is far in the future, all the more.
        assume(str(body.get("expires_at") or "9999") > "2100")
        # Only the service can make a cursor.
        assume(mode is not GenerationMode.POSITIVE or "cursor" not in (case.query or {}))
        case.call_and_validate(base_url=service.url, headers={"X-Internal-Key": key})

    answers()


@pytest.mark.parametrize("path", [UPSERT, LOOKUP])
def test_refusals_that_a_schema_cannot_provoke_are_described(
    service: Service, description: Any, path: str
) -> None:
    """A wrong key, method, size, media type, expectation or head: described, and so answered."""
    answers = [
        service.send("POST", path, {}, key="wrong"),
        service.send("PUT", path, {}),
        service.send("POST", path, b" " * 2**20),
        service.send("POST", path, {}, media_type="text/plain"),
        service.send("POST", path, {}, {"Expect": "magic"}),
        service.send("POST", path, {}, {"X-Large": "b" * 33 * 1024}),
    ]
    assert [answer.status for answer in answers] == [403, 405, 413, 415, 417, 431]
    described = description["paths"][path]["post"]["responses"]
    for answer in answers:
        response = resolved(description, described[str(answer.status)])
        assert_described(description, response, answer.json)

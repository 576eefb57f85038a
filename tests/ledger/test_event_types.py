"""Event types: what is declared of each is what pages, indexes and verify say of it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from secrets_broker.ledger.access.judgement import operation
from secrets_broker.ledger.commands import Delete, Lookup, Record, Upsert
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.credential import LiveCredential, State, decide
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import InvalidCommandError
from secrets_broker.ledger.event_types import (
    ACCESS_IMPORTED,
    BY_NAME,
    CHANGES,
    CREATED,
    DELETED,
    ERASED,
    GRANTS,
    MAKES,
    ON_CREDENTIAL,
    PROJECTION_REBUILT,
    READ,
    TRUST,
    TYPES,
    UPDATED,
    EventType,
)
from secrets_broker.tools.verify.checks.credential_histories import CredentialHistories
from secrets_broker.tools.verify.checks.facts import Fact
from tests.conftest import Database
from tests.ledger.helpers import record
from tests.repository import ROOT

PAGE = ROOT / "docs" / "format.md"
OPENAPI = ROOT / "secrets_broker" / "http" / "openapi.yaml"

LIVE = Fact(0, CREATED, "h", "ssh", 1, 1, True, None, "first key", None)
DETAILS: dict[str, dict[str, Any]] = {
    ERASED: {"data_keys": ["first key"], "credential_ids": [1], "bodies": 1},
    "credential.rekeyed": {"content": 0},
}


def row_of(kind: EventType) -> list[str]:
    """A type's line in the table of docs/format.md, but for who records it."""
    details = (f"`{one.name}`{'' if one.required else '?'}" for one in kind.details)
    line = kind.access
    word = "" if line is None else f"`{line.word}`" if line.word else f"its `{line.word_detail}`"
    body = "yes" if kind.has_body else ""
    return [f"`{kind.name}`", kind.about, ", ".join(details), body, word]


def test_the_page_of_the_format_has_just_these_types() -> None:
    """Each with what it is about, its details, whether it has a body, and its access_type."""
    _, _, rest = PAGE.read_text().partition("### Types\n")
    table = [line for line in rest.partition("\n### ")[0].splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert [row[:-1] for row in rows] == [row_of(kind) for kind in TYPES]
    assert all(row[-1] for row in rows)


def test_names_are_not_given_twice() -> None:
    """Nor are a type's details."""
    assert len(BY_NAME) == len(TYPES)
    for kind in TYPES:
        assert len({one.name for one in kind.details}) == len(kind.details)


@pytest.mark.parametrize(
    ("index", "types"),
    [("changes", CHANGES), ("access_keys", {*GRANTS}), ("control", {*GRANTS, *TRUST})],
)
def test_indexes_are_on_the_types_that_are_asked_for(
    database: Database, index: str, types: set[str]
) -> None:
    """A released index cannot change: a type that belongs in one needs a new index."""
    query = "SELECT pg_get_indexdef(%s::regclass)"
    ((definition,),) = database.fetch(query, f"ledger.events_{index}")
    assert {word for word in definition.split("'") if word in BY_NAME} == types


def test_the_api_names_the_types_that_it_can_answer_with() -> None:
    """What makes a version, what ends one, and what is a receipt of one."""
    schemas = yaml.safe_load(OPENAPI.read_text())["components"]["schemas"]
    ends = {
        name
        for name, rule in ON_CREDENTIAL.items()
        if rule.stands_after != "nothing" and rule.content in ("set", "ended")
    }
    version, exposed = schemas["Version"]["properties"], schemas["Exposed"]["properties"]
    assert version["type"]["enum"] == [*MAKES]
    assert {*version["ended_by"]["enum"]} == {*exposed["ended_by"]["enum"]} == {*ends, None}
    assert schemas["Receipt"]["properties"]["type"]["enum"] == [READ, ACCESS_IMPORTED]


def told(*facts: Fact) -> list[str]:
    """What verify finds wrong with the last of them; those before are right."""
    lives = CredentialHistories()
    try:
        found = [[problem.detail for problem in lives.take(fact)] for fact in facts]
    finally:
        lives.close()
    assert not any(found[:-1])
    return found[-1]


def right(kind: str, after: Fact | None) -> Fact:
    """An event of a type that says all that it should, behind that change."""
    rule = ON_CREDENTIAL[kind]
    version: tuple[int | None, int | None]
    version = {"first": (3, 1), "next": (1, 2), "last": (1, 1)}[rule.version]
    if rule.version == "last" and after is None:
        version = (None, None)
    key = "another key" if rule.new_data_key else "first key"
    details = DETAILS.get(kind)
    if kind == ERASED and after is None:
        details = {"data_keys": [], "credential_ids": [], "bodies": 0}
    given = key if rule.has_body else None
    return Fact(2, kind, "h", "ssh", version[0], version[1], True, None, given, details)


@pytest.mark.parametrize("kind", ON_CREDENTIAL)
def test_verify_holds_each_type_to_where_it_may_stand(kind: str) -> None:
    """After a live credential, after none that ever was, and after one that was deleted."""
    stands_after = ON_CREDENTIAL[kind].stands_after
    gone = LIVE._replace(position=1, type=DELETED, key=None)
    assert bool(told(LIVE, right(kind, LIVE))) is (stands_after == "nothing")
    assert bool(told(right(kind, None))) is (stands_after == "live")
    assert bool(told(LIVE, gone, right(kind, gone))) is (stands_after == "live")


@pytest.mark.parametrize("kind", ON_CREDENTIAL)
def test_verify_holds_each_type_to_its_version_its_body_and_its_data_key(kind: str) -> None:
    """Where it may stand, one thing about it is changed."""
    rule = ON_CREDENTIAL[kind]
    before = () if rule.stands_after == "nothing" else (LIVE,)
    fact = right(kind, LIVE)
    assert not told(*before, fact)
    assert told(*before, fact._replace(version=7))
    assert told(*before, fact._replace(credential_id=7))
    assert told(*before, fact._replace(key=None if rule.has_body else "first key"))
    if rule.has_body and before:
        other = "first key" if rule.new_data_key else "another key"
        assert told(*before, fact._replace(key=other))


@pytest.mark.parametrize("kind", ON_CREDENTIAL)
def test_verify_follows_what_each_type_leaves(kind: str) -> None:
    """An update behind it is right where something is live, and nowhere else."""
    rule = ON_CREDENTIAL[kind]
    fact = right(kind, LIVE)
    before = () if rule.stands_after == "nothing" else (LIVE,)
    key = fact.key or "first key"
    id_, version = fact.credential_id, (fact.version or 0) + 1
    update = Fact(3, UPDATED, "h", "ssh", id_, version, True, None, key, None)
    assert bool(told(*before, fact, update)) is (rule.content == "ended")


@pytest.mark.parametrize("kind", ["credential.unheard_of", "", "ledger.restored "])
def test_no_event_of_another_type_is_written(
    database: Database, keyring: Keyring, kind: str
) -> None:
    """Nothing is appended."""
    before = database.fetch("SELECT count(*) FROM ledger.events")
    with pytest.raises(InvalidCommandError, match="a type that is not declared"):
        record(database, keyring, Record(type=kind, details={}))
    record_again = Record(type=PROJECTION_REBUILT, details={})
    with pytest.raises(InvalidCommandError, match=r"lack what projection\.rebuilt says"):
        record(database, keyring, record_again)
    ((after,),) = database.fetch("SELECT count(*) FROM ledger.events")
    assert after <= before[0][0] + 1  # the first event that a ledger begins with


def test_an_outcome_that_a_type_cannot_have_is_refused() -> None:
    """A refusal is never ok; a new credential is never a failure."""
    denied, created = BY_NAME["access.denied"], BY_NAME[CREATED]
    said = {"operation": "read", "rule": "host"}
    assert denied.problem_of(said, ok=False) is None
    assert denied.problem_of(said, ok=True)
    assert denied.problem_of(None, ok=False)
    assert created.problem_of(None, ok=True) is None
    assert created.problem_of(None, ok=False)
    assert replace(created, fails=True).problem_of(None, ok=False) is None


@pytest.mark.parametrize("state", [None, LiveCredential(1, 1, 0, "first key")])
@pytest.mark.parametrize(
    "command",
    [
        Lookup(host="h", purpose="ssh"),
        Delete(host="h", purpose="ssh"),
        Upsert(host="h", purpose="ssh", password="x"),
    ],
)
def test_the_right_that_a_type_needed_is_its_commands(
    command: Lookup | Delete | Upsert, state: State
) -> None:
    """Rights are judged by the command; what other rights would have refused, by the event."""
    decided = decide(
        state, command, 5, Content(password="x") if state else None, at=datetime.now(UTC)
    )
    assert BY_NAME[decided.type].right == operation(command)

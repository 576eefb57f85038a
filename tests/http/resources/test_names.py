"""Names that people could mistake for others: not made anew, and what is there stays in use."""

from pathlib import Path
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.encoding import name_problem
from secrets_broker.ledger.encryption.keyring import Keyring
from tests.conftest import KMS_KEY
from tests.http.client import UPSERT, Service
from tests.http.granting import Keys
from tests.ledger.helpers import imported, record
from tests.tools.command_line import run

ODD = [
    *("web1\r", "web1 ", " web1", "web1\n", "\tweb1", "we\x1bb1", "web1\x7f", "web1\x85"),
    *("web\u200b1", "\ufeffweb1", "web1\u200d", "we\u2060b1", "web1\u00ad", "w\u034feb1"),
    *("web1\u202e", "\u202aweb1", "we\u2066b\u20691", "\u200fweb1", "web1\u061c"),
    *("web1\u00a0", "\u3000web1", "web1\u2028", "web1\u3164", "web1\ufe0f", "w\U000e0041eb1"),
]


@pytest.mark.parametrize("name", ODD, ids=ascii)
@pytest.mark.parametrize("field", ["host", "purpose"])
def test_such_a_name_is_not_made(service: Service, field: str, name: str) -> None:
    """400 that names the field, alone and in a batch, and nothing is recorded of it."""
    before = service.events("position")
    sent = {"host": "plain.example", "purpose": "ssh", "password": "p", field: name}
    answer = service.upsert(**sent)
    assert (answer.status, answer.json["errors"][0]["field"]) == (400, field)
    (item,) = service.send("POST", f"{UPSERT}-batch", {"items": [sent]}).json["items"]
    assert (item["status"], item["errors"][0]["field"]) == (400, field)
    assert service.events("position") == before


@pytest.mark.parametrize(
    "name", ["web 1", "wéb-1", "プロダクション", "a\u00a0b", "🔑", "مرحبا", "=1+1"]
)
def test_any_other_name_is(service: Service, name: str) -> None:
    """White space within, every script and every sign that is seen."""
    sent = {"host": name, "purpose": name[:50]}
    assert service.upsert(**sent, password="p").status == 200
    assert service.lookup(**sent).status == 200


@settings(max_examples=150)
@given(name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6))
def test_the_rule_is_the_same_for_all(service: Service, name: str) -> None:
    """Whatever the name: taken, or refused by the one rule."""
    answer = service.upsert(host=name, purpose="rule", password="p")
    assert answer.status == (400 if name_problem(name) else 200)


@pytest.mark.parametrize("name", [odd for odd in ODD if odd != "web1\r"][:12], ids=ascii)
def test_what_is_there_is_looked_up_changed_and_taken_away(
    service: Service, keyring: Keyring, name: str
) -> None:
    """A name of before the rule stays in use until it is deleted; then it is a new one."""
    sent = {"host": name, "purpose": "ssh\u200b"}
    record(service.database, keyring, imported(*sent.values()))
    assert service.lookup(**sent).json["password"] == "hunter2"
    assert service.upsert(**sent, password="changed").json["version"] == 2
    batch = {"items": [{**sent, "password": "again"}]}
    (item,) = service.send("POST", f"{UPSERT}-batch", batch).json["items"]
    assert (item["status"], item["version"]) == (200, 3)
    assert service.lookup(**sent).json["password"] == "again"
    assert service.delete(urlencode(sent)).status == 200
    assert service.lookup(**sent).status == 404
    assert service.upsert(**sent, password="p").status == 400


def test_what_is_there_can_be_erased(service: Service, keyring: Keyring, tmp_path: Path) -> None:
    """Its keys are destroyed like those of any other."""
    host = "erase\u202e.example"
    record(service.database, keyring, imported(host))
    settings_ = {
        "SECRETS_KMS_KEY": KMS_KEY,
        "DATABASE_URL": service.database.owner_url,
        "MIGRATION_DATABASE_URL": service.database.owner_url,
    }
    words = ("erase", host, "ssh", "--reason", "asked for", "--yes")
    done = run(*words, cwd=tmp_path, env=settings_)
    assert done.returncode == 0, done.stderr
    assert service.lookup(host=host, purpose="ssh").status == 404


def test_a_grant_is_not_made_under_such_a_name(service: Service) -> None:
    """Nor is its name one that people could mistake, since it becomes the actor."""
    admin = Keys(service).grant("makes names", {"allow": ["admin"]})
    rules = [{"allow": ["audit"]}]
    for name in ("a\u202eb", "a\u200bb", "a\u3164", "a "):
        body = {"name": name, "rules": rules}
        answer = service.send("POST", "/internal/access/key-grant", body, key=admin)
        assert (answer.status, "name: must not" in str(answer.json["errors"])) == (400, True)

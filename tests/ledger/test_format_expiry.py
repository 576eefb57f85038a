"""docs/format.md's vectors of a credential that ends: the code makes just these bytes."""

import hashlib
import json
from datetime import datetime

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secrets_broker.ledger.body import Place, open_body, open_content, seal_body, seal_content
from secrets_broker.ledger.commands import Content, Upsert
from secrets_broker.ledger.envelope import BODY
from tests.ledger.test_format_vectors import VECTORS, fix_nonces, plain_json

PLACE = Place("db1.example", "ssh", credential_id=1, version=2)


@pytest.fixture
def cipher() -> AESGCM:
    """The data key of the page."""
    return AESGCM(bytes.fromhex(VECTORS["data-key"][1]))


@pytest.fixture
def content() -> Content:
    """The credential of the page, as an upsert gives it."""
    additional_data, secret_data = map(json.loads, VECTORS["data"])
    return Upsert(
        host=PLACE.host,
        purpose=PLACE.purpose,
        username="root",
        password="pässword",
        additional_data=additional_data,
        secret_data=secret_data,
        expires_at=datetime.fromisoformat("2027-01-01T00:00:00.5+01:00"),
        rotate_after=90,
    ).content


def test_a_content_that_ends_is_sealed_to_these_bytes(
    monkeypatch: pytest.MonkeyPatch, cipher: AESGCM, content: Content
) -> None:
    """With these nonces it becomes just these ciphertexts, whatever offset its time had."""
    clear, aad, ciphertext = VECTORS["expiring-body"]
    fix_nonces(monkeypatch, 6, 7, 8)
    body = seal_content(cipher, PLACE, content)
    assert body.secret_data_encrypted == VECTORS["expiring-secret-data"][2]
    assert body.password_encrypted == VECTORS["expiring-password"][2]
    assert msgspec.json.encode(body).decode() == clear
    assert PLACE.bind(BODY, "credential.updated").decode() == aad
    assert seal_body(cipher, "credential.updated", PLACE, body).hex() == ciphertext


def test_a_content_that_ends_opens_from_these_bytes(cipher: AESGCM, content: Content) -> None:
    """The page's body opens to the page's credential."""
    ciphertext = bytes.fromhex(VECTORS["expiring-body"][2])
    body = open_body(cipher, "credential.updated", PLACE, ciphertext)
    assert open_content(cipher, PLACE, body) == content


@pytest.mark.parametrize("name", ["secret-data", "password"])
def test_the_standard_library_agrees_on_the_bindings(name: str) -> None:
    """json and hashlib come to the page's digests and AADs."""
    served, aad, _ = VECTORS[f"expiring-{name}"]
    digest = hashlib.sha256(plain_json(json.loads(served))).hexdigest()
    binding = [f"secrets-broker/v1/{name}", PLACE.host, PLACE.purpose, 1, 2, digest]
    assert plain_json(binding).decode() == aad

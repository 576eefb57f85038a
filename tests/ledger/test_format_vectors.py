"""docs/format.md's vectors: the code makes just these bytes, and so does the standard library."""

import hashlib
import hmac
import json
import os
import re
from base64 import b64encode
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secrets_broker.ledger.commands import Upsert
from secrets_broker.ledger.content import FIELDS, Content
from secrets_broker.ledger.encryption.body import (
    CiphertextPlace,
    open_body,
    open_content,
    seal_body,
    seal_content,
)
from secrets_broker.ledger.encryption.envelope import BODY, CANARY, DATA_KEY, bind
from secrets_broker.ledger.encryption.keyring import DataKey, Kek, Keyring, derive_key
from secrets_broker.ledger.events import Event, encode_entry
from secrets_broker.ledger.transparency_log.merkle import Frontier, leaf_hash

PAGE = Path(__file__).parents[2] / "docs" / "format.md"
VECTORS: dict[str, list[str]] = {
    name: text.split("\n")
    for name, text in re.findall(
        r"^```text (\S+)\n(.*?)\n```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
}
ENTRIES = [VECTORS[f"entry-{position}"][0].encode() for position in range(3)]


@pytest.fixture
def cipher() -> AESGCM:
    """The data key of the page."""
    return AESGCM(bytes.fromhex(VECTORS["data-key"][1]))


@dataclass(frozen=True)
class Case:
    """A credential of the page: where it belongs, which event stores it, and the nonces used."""

    prefix: str
    version: int
    type: str
    nonces: tuple[int, int, int]
    ends: dict[str, Any]

    @property
    def place(self) -> CiphertextPlace:
        """Where its ciphertexts belong."""
        return CiphertextPlace("db1.example", "ssh", credential_id=1, version=self.version)

    @property
    def content(self) -> Content:
        """The credential, as an upsert gives it."""
        additional_data, secret_data = map(json.loads, VECTORS["data"])
        return Upsert(
            host=self.place.host,
            purpose=self.place.purpose,
            username="root",
            password="pässword",
            additional_data=additional_data,
            secret_data=secret_data,
            **self.ends,
        )

    def vector(self, name: str) -> list[str]:
        """One of the page's of it."""
        return VECTORS[f"{self.prefix}{name}"]


ENDS = {
    "expires_at": datetime.fromisoformat("2027-01-01T00:00:00.5+01:00"),
    "rotate_after": 90,
}
CASES = [
    Case("", 1, "credential.created", (1, 2, 3), {}),
    Case("expiring-", 2, "credential.updated", (6, 7, 8), ENDS),
]
each_case = pytest.mark.parametrize("case", CASES, ids=["plain", "expiring"])


def fix_nonces(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Make the next nonces twelve bytes of each number."""
    nonces = iter(bytes([number]) * 12 for number in numbers)
    monkeypatch.setattr(os, "urandom", lambda _: next(nonces))


def test_a_kms_key_has_one_kek_and_one_id() -> None:
    """One SECRETS_KMS_KEY is one KEK with one id, on every machine."""
    kms_key, kek, kek_id = VECTORS["kek"]
    assert derive_key(kms_key).hex() == kek
    assert Keyring.from_kms_keys(kms_key).first.id == kek_id


def test_the_canary_is_bound_to_the_kek(monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary is sealed under the KEK and bound to its id."""
    aad, sealed = VECTORS["canary"]
    kek = Kek.from_bytes(bytes.fromhex(VECTORS["kek"][1]))
    assert bind(CANARY, kek.id).decode() == aad
    fix_nonces(monkeypatch, 5)
    assert kek.canary().hex() == sealed
    kek.check_canary(bytes.fromhex(sealed))


def test_a_data_key_is_bound_to_its_id_and_credential() -> None:
    """A wrapped data key opens with its own id and credential as AAD."""
    key_id, dek, aad, wrapped = VECTORS["data-key"]
    keyring = Keyring([Kek.from_bytes(bytes.fromhex(VECTORS["kek"][1]))])
    assert bind(DATA_KEY, key_id, 1).decode() == aad
    cipher = keyring.unwrap(DataKey(key_id, 1, keyring.first.id, bytes.fromhex(wrapped)))
    nonce = bytes(12)
    assert cipher.encrypt(nonce, b"x", None) == AESGCM(bytes.fromhex(dek)).encrypt(
        nonce, b"x", None
    )


@each_case
def test_a_content_is_sealed_to_these_bytes(
    monkeypatch: pytest.MonkeyPatch, cipher: AESGCM, case: Case
) -> None:
    """With these nonces a content becomes just these ciphertexts, whatever offset a time had."""
    clear, aad, ciphertext = case.vector("body")
    fix_nonces(monkeypatch, *case.nonces)
    body = seal_content(cipher, case.place, case.content)
    assert body.secret_data_encrypted == case.vector("secret-data")[2]
    assert body.password_encrypted == case.vector("password")[2]
    assert msgspec.json.encode(body).decode() == clear
    assert case.place.bind(BODY, case.type).decode() == aad
    assert seal_body(cipher, case.type, case.place, body).hex() == ciphertext


@each_case
def test_a_content_opens_from_these_bytes(cipher: AESGCM, case: Case) -> None:
    """The page's body opens to the page's credential."""
    ciphertext = bytes.fromhex(case.vector("body")[2])
    body = open_body(cipher, case.type, case.place, ciphertext)
    opened = open_content(cipher, case.place, body)
    assert [getattr(opened, name) for name in FIELDS] == [
        getattr(case.content, name) for name in FIELDS
    ]


@each_case
@pytest.mark.parametrize("name", ["secret-data", "password"])
def test_the_digest_is_of_the_object_that_the_page_shows(name: str, case: Case) -> None:
    """json and hashlib come to the page's digests and AADs."""
    served, aad, _ = case.vector(name)
    digest = hashlib.sha256(served.encode()).hexdigest()
    assert plain_json(json.loads(served)).decode() == served
    place = case.place
    binding = [f"secrets-broker/v1/{name}", place.host, place.purpose, 1, place.version, digest]
    assert plain_json(binding).decode() == aad


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_is_made_of_its_fields_alone(entry: bytes) -> None:
    """Decoding an entry and encoding it anew gives the same bytes."""
    assert encode_entry(msgspec.json.decode(entry, type=Event)) == entry


def test_the_first_entry_names_the_body_of_the_page() -> None:
    """An event names its body's data key and the SHA-256 of its ciphertext."""
    digest = hashlib.sha256(bytes.fromhex(VECTORS["body"][2])).digest()
    named = {"key": VECTORS["data-key"][0], "sha256": b64encode(digest).decode()}
    assert json.loads(ENTRIES[0])["body"] == named


def test_leaves_and_roots() -> None:
    """The page's entries have these leaf hashes, and their trees these roots."""
    leaves = [leaf_hash(entry) for entry in ENTRIES]
    assert [leaf.hex() for leaf in leaves] == VECTORS["leaves"]
    roots = [Frontier().extend(leaves[:size])[0].root().hex() for size in range(4)]
    assert roots == VECTORS["roots"]


def test_a_larger_tree_and_its_stored_node() -> None:
    """Of 300 leaves one node is stored, and the root is the page's."""
    frontier, nodes = Frontier().extend(leaf_hash(b"%d" % number) for number in range(300))
    assert [(node.level, node.index) for node in nodes] == [(1, 0)]
    assert [nodes[0].hash.hex(), frontier.root().hex()] == VECTORS["larger-tree"]


# The same with nothing of ours: json, hashlib and hmac.


def plain_json(value: Any) -> bytes:
    """Canonical JSON as the standard library can give it."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def plain_root(leaves: list[bytes]) -> bytes:
    """RFC 9162's definition of a tree's root, to the letter."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256().digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = plain_root(leaves[:half]), plain_root(leaves[half:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def test_the_standard_library_agrees_on_the_kek() -> None:
    """hashlib and hmac come to the same KEK and id."""
    kms_key, kek, kek_id = VECTORS["kek"]
    salt = b"opsconductor-secrets-v1"
    derived = hashlib.pbkdf2_hmac("sha256", kms_key.encode(), salt, 100_000, 32)
    assert derived.hex() == kek
    # HKDF-Expand of up to one block: HMAC(key, info || 0x01).
    block = hmac.digest(derived, b"secrets-broker/v1/kek-id\x01", "sha256")
    assert block[:16].hex() == kek_id


def test_the_standard_library_agrees_on_entries_and_bindings() -> None:
    """json.dumps with sorted keys gives every canonical text of the page."""
    bindings = [VECTORS["canary"][0], VECTORS["data-key"][2]]
    bindings += [line for name in ("secret-data", "password") for line in VECTORS[name][:2]]
    bindings.append(VECTORS["body"][1])
    for text in [*ENTRIES, *(binding.encode() for binding in bindings)]:
        assert plain_json(json.loads(text)) == text


def test_the_standard_library_agrees_on_the_trees() -> None:
    """RFC 9162's recursive definition gives the page's leaves and roots."""
    leaves = [hashlib.sha256(b"\x00" + entry).digest() for entry in ENTRIES]
    assert [leaf.hex() for leaf in leaves] == VECTORS["leaves"]
    assert [plain_root(leaves[:size]).hex() for size in range(4)] == VECTORS["roots"]
    larger = [hashlib.sha256(b"\x00%d" % number).digest() for number in range(300)]
    both = [plain_root(larger[:256]).hex(), plain_root(larger).hex()]
    assert both == VECTORS["larger-tree"]

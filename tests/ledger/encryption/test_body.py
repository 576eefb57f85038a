"""Bodies: every field that a lookup serves is bound to its place and to all the others."""

import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.content import Content
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.encryption.body import (
    Body,
    CiphertextPlace,
    open_body,
    open_content,
    seal_body,
    seal_content,
)
from secrets_broker.ledger.errors import DecryptionError
from secrets_broker.tools.postgres import Cluster
from tests.ledger.helpers import json_objects, rotations, texts, times

CIPHER = AESGCM(os.urandom(32))
PLACE = CiphertextPlace("host", "ssh", 7, 3)
contents = st.builds(
    Content,
    password=st.none() | texts,
    username=st.none() | texts,
    domain=st.none() | texts,
    additional_data=json_objects,
    secret_data=st.none() | json_objects,
    expires_at=st.none() | times,
    rotate_after=st.none() | rotations,
)
places = st.builds(
    CiphertextPlace, texts, texts, st.integers(1, 2**53 - 1), st.integers(1, 2**31 - 1)
)


@pytest.fixture(scope="module")
def connection(cluster: Cluster) -> Iterator["psycopg.Connection[Any]"]:
    """A connection to a database whose tables do not matter."""
    with psycopg.connect(cluster.superuser_url(), autocommit=True) as connection:
        yield connection


@given(contents, places, texts)
def test_round_trip(content: Content, place: CiphertextPlace, event_type: str) -> None:
    """Any content, sealed, put into a body and opened again, is what it was."""
    body = seal_content(CIPHER, place, content)
    ciphertext = seal_body(CIPHER, event_type, place, body)
    again = open_body(CIPHER, event_type, place, ciphertext)
    assert again == body
    assert open_content(CIPHER, place, again) == content


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents)
def test_a_trip_through_jsonb(connection: "psycopg.Connection[Any]", content: Content) -> None:
    """additional_data with floats, read back from jsonb, still opens, and is what was stored."""
    body = seal_content(CIPHER, PLACE, content)
    text = msgspec.json.encode(body.additional_data).decode()
    row = connection.execute("SELECT %s::jsonb", (text,)).fetchone()
    assert row is not None
    served = msgspec.structs.replace(body, additional_data=row[0])
    assert open_content(CIPHER, PLACE, served) == content


@given(contents, st.data())
def test_an_edited_field_is_refused(content: Content, data: st.DataObject) -> None:
    """No served field can be changed, set, or taken away, and the rest still open."""
    body = seal_content(CIPHER, PLACE, content)
    values = {
        "username": st.none() | texts,
        "domain": st.none() | texts,
        "additional_data": json_objects,
        "expires_at": st.none() | times.map(rfc3339),
        "rotate_after": st.none() | rotations,
    }
    field = data.draw(st.sampled_from(sorted(values)))
    value = data.draw(values[field])
    assume(msgspec.json.encode(value) != msgspec.json.encode(getattr(body, field)))
    assume(value != getattr(body, field))
    with pytest.raises(DecryptionError):
        open_content(CIPHER, PLACE, msgspec.structs.replace(body, **{field: value}))


@given(contents, contents)
def test_secret_data_cannot_be_exchanged(first: Content, second: Content) -> None:
    """secret_data cannot be removed, added, or taken from another row of the same key."""
    body, other = (seal_content(CIPHER, PLACE, content) for content in (first, second))
    assume(body.secret_data_encrypted != other.secret_data_encrypted)
    mixed = msgspec.structs.replace(body, secret_data_encrypted=other.secret_data_encrypted)
    with pytest.raises(DecryptionError):
        open_content(CIPHER, PLACE, mixed)


@pytest.mark.parametrize("field", ["password_encrypted", "secret_data_encrypted"])
def test_each_byte_of_a_text_column_counts(field: str) -> None:
    """Any changed byte of a stored ciphertext is refused, and so is what is not base64."""
    body = seal_content(CIPHER, PLACE, Content(password="pässword", secret_data={"a": 1.5}))
    sealed = b64decode(getattr(body, field))
    changed = [
        b64encode(sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :]).decode()
        for i in range(len(sealed))
    ]
    for text in [*changed, "", "not base64", "ü", b64encode(sealed[:20]).decode()]:
        with pytest.raises(DecryptionError):
            open_content(CIPHER, PLACE, msgspec.structs.replace(body, **{field: text}))


@given(contents, places, places)
def test_a_moved_ciphertext_is_refused(
    content: Content, home: CiphertextPlace, other: CiphertextPlace
) -> None:
    """A row or a body opens only under its own host, purpose, credential id and version."""
    assume(home != other)
    body = seal_content(CIPHER, home, content)
    with pytest.raises(DecryptionError):
        open_content(CIPHER, other, body)
    with pytest.raises(DecryptionError):
        open_body(CIPHER, "t", other, seal_body(CIPHER, "t", home, body))


@pytest.mark.parametrize(
    "other",
    [
        CiphertextPlace("host2", "ssh", 7, 3),
        CiphertextPlace("host", "ssh2", 7, 3),
        CiphertextPlace("host", "ssh", 8, 3),
        CiphertextPlace("host", "ssh", 7, 4),
        CiphertextPlace("hosts", "sh", 7, 3),
    ],
)
def test_each_part_of_the_place_counts(other: CiphertextPlace) -> None:
    """Each part of a place alone keeps a ciphertext from opening there."""
    body = seal_content(CIPHER, PLACE, Content(password="p"))
    with pytest.raises(DecryptionError):
        open_content(CIPHER, other, body)


def test_a_body_is_bound_to_its_type() -> None:
    """A body opens only for the type of event that it was sealed for."""
    body = seal_content(CIPHER, PLACE, Content(password="p"))
    ciphertext = seal_body(CIPHER, "credential.created", PLACE, body)
    with pytest.raises(DecryptionError):
        open_body(CIPHER, "credential.updated", PLACE, ciphertext)


def test_password_and_secret_data_are_not_exchangeable() -> None:
    """A password's ciphertext in the column of secret_data is refused, and the reverse."""
    body: Body = seal_content(CIPHER, PLACE, Content(password="p", secret_data={"a": "b"}))
    exchanged = msgspec.structs.replace(
        body,
        password_encrypted=body.secret_data_encrypted,
        secret_data_encrypted=body.password_encrypted,
    )
    with pytest.raises(DecryptionError):
        open_content(CIPHER, PLACE, exchanged)

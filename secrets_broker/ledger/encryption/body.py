"""Bodies: the encrypted part of a credential's event, and how it is bound to its place.

A content is sealed in two steps. First password and secret_data are sealed, as they stand in the
projection. Each is bound to the credential's name, id and version, and to a hash of every other
field that a lookup serves. So nobody can edit a field of a row or move a ciphertext unnoticed. Then
the whole is sealed again as the event's body, so a projection rebuilt from bodies equals the live
one byte for byte.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secrets_broker.ledger.content import (
    FIELDS,
    READABLE,
    SEALED,
    TIMES,
    Content,
    SqlType,
    kept,
)
from secrets_broker.ledger.encoding import canonical_json, from_rfc3339, full_canonical_json
from secrets_broker.ledger.encryption.envelope import (
    BODY,
    NO_PASSWORD,
    NONCE_BYTES,
    PASSWORD,
    TAG_BYTES,
    bind,
    seal,
    unseal,
)
from secrets_broker.ledger.errors import DecryptionError


@dataclass(frozen=True, slots=True)
class CiphertextPlace:
    """Where a ciphertext belongs."""

    host: str
    purpose: str
    credential_id: int
    version: int

    def bind(self, label: str, *more: str) -> bytes:
        """The AAD of a ciphertext that belongs here."""
        return bind(label, *more, self.host, self.purpose, self.credential_id, self.version)


def _column(name: str) -> str:
    return f"{name}_encrypted" if name in SEALED else name


LATER: Final = tuple(_column(name) for name, field in FIELDS.items() if field.later)
"""Fields that a body leaves out if unset, so that bodies without them keep their bytes."""


def _parts() -> dict[str, SqlType]:
    columns: dict[str, SqlType] = {name: FIELDS[name].type for name in READABLE}
    columns |= {_column(name): "text" for name in SEALED}
    return {**{name: columns[name] for name in columns if name not in LATER}, **columns}


PARTS: Final = _parts()
"""The fields of a body in the order of its JSON, with the types of their columns."""

_PYTHON: Final[Mapping[SqlType, Any]] = {
    "text": str | None,
    "jsonb": Any,
    "timestamptz": str | None,
    "integer": int | None,
}

if TYPE_CHECKING:

    class Body(msgspec.Struct, frozen=True):
        """Its fields are PARTS; a type checker cannot know them."""

        def __init__(self, *parts: Any, **named: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    Body = msgspec.defstruct(
        "Body",
        [
            (name, _PYTHON[kind], *((None,) if name in LATER else ()))
            for name, kind in PARTS.items()
        ],
        namespace={
            "__doc__": "What an event's body says and the projection's row holds; "
            "secrets stay sealed in it."
        },
        module=__name__,
        frozen=True,
        omit_defaults=True,
    )

_decoder = msgspec.json.Decoder(Body)
_unset: Final = {name: None for name in PARTS if name not in LATER}
_always: Final = tuple(name for name in READABLE if name not in LATER)
_later: Final = tuple(name for name in READABLE if name in LATER)
# The password is sealed last, and is bound to these too.
_others: Final = tuple(
    (name, _column(name), FIELDS[name].label or "") for name in SEALED if name != "password"
)


def seal_content(cipher: AESGCM, place: CiphertextPlace, content: Content) -> Body:
    """Seal the secret fields of a content."""
    plain = {name: kept(value) for name, value in _served(content).items()}
    sealed: dict[str, str] = {}
    for name, column, label in _others:
        if (value := getattr(content, name)) is not None:
            aad = _aad(label, place, plain)
            sealed[column] = _to_text(seal(cipher, msgspec.json.encode(value), aad))
    password = _seal_password(cipher, content.password, place, plain | sealed)
    return Body(**{**_unset, **plain, **sealed, "password_encrypted": password})


def open_content(cipher: AESGCM, place: CiphertextPlace, body: Body) -> Content:
    """Open a content; raises DecryptionError if any field is not what was sealed."""
    plain, sealed = _served(body), {}
    for _, column, _ in _others:
        if (text := getattr(body, column)) is not None:
            sealed[column] = text
    served = plain | sealed if sealed else plain
    password = _open_password(cipher, body.password_encrypted, place, served)
    opened = {}
    for name, column, label in _others:
        if column in sealed:
            secret = unseal(cipher, _from_text(sealed[column]), _aad(label, place, plain))
            opened[name] = msgspec.json.decode(secret)
    for name in TIMES:
        if name in plain:
            # The row is authentic, so this text was made from a time.
            opened[name] = from_rfc3339(plain[name])
    return Content(password=password, **(plain | opened if opened else plain))


def _served(of: Content | Body) -> dict[str, Any]:
    """The readable fields, to which every ciphertext is bound.

    A later field is included only if it is set, so that the hashes of older rows stay the same.
    """
    served = {}
    for name in _always:
        served[name] = getattr(of, name)
    for name in _later:
        if (value := getattr(of, name)) is not None:
            served[name] = value
    return served


def seal_body(cipher: AESGCM, event_type: str, place: CiphertextPlace, body: Body) -> bytes:
    """Seal a body as a whole."""
    return seal(cipher, msgspec.json.encode(body), place.bind(BODY, event_type))


def open_body(cipher: AESGCM, event_type: str, place: CiphertextPlace, ciphertext: bytes) -> Body:
    """Open a body; raises DecryptionError."""
    return _decoder.decode(unseal(cipher, ciphertext, place.bind(BODY, event_type)))


def _seal_password(
    cipher: AESGCM, password: str | None, place: CiphertextPlace, served: dict[str, Any]
) -> str:
    # Without a password, an empty text is sealed under a label of its own. Without a ciphertext
    # the other fields would be unbound, and an empty password differs from none.
    label = NO_PASSWORD if password is None else PASSWORD
    return _to_text(seal(cipher, (password or "").encode("utf-8"), _aad(label, place, served)))


def _open_password(
    cipher: AESGCM, text: str, place: CiphertextPlace, served: dict[str, Any]
) -> str | None:
    sealed = _from_text(text)
    try:
        return unseal(cipher, sealed, _aad(PASSWORD, place, served)).decode("utf-8")
    except DecryptionError:
        if len(sealed) != NONCE_BYTES + TAG_BYTES:
            raise
    unseal(cipher, sealed, _aad(NO_PASSWORD, place, served))
    return None


def _aad(label: str, place: CiphertextPlace, served: dict[str, Any]) -> bytes:
    # Without additional_data there is no float and no key of a caller, and both canonical forms are
    # the same bytes. The plain one takes a tenth of the time.
    encode = full_canonical_json if served["additional_data"] else canonical_json
    try:
        digest = sha256(encode(served)).hexdigest()
    except ValueError:
        raise DecryptionError("a field holds what was never accepted") from None
    return bind(label, place.host, place.purpose, place.credential_id, place.version, digest)


def _to_text(sealed: bytes) -> str:
    return b64encode(sealed).decode("ascii")


def _from_text(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise DecryptionError("the ciphertext is not base64") from None

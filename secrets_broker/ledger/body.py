"""Bodies: what a credential's event holds under encryption, and how it is bound to its place.

A content is sealed in two steps. Password and secret_data are sealed as they go into the
projection, each bound to the credential's name, id and version and to a hash of every other
field that a lookup serves; so no field of a row can be edited, and no ciphertext moved, unseen.
The whole is then sealed once more as the event's body, so that a projection rebuilt from bodies
equals the live one byte for byte.
"""

from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secrets_broker.ledger.commands import Content
from secrets_broker.ledger.encoding import (
    canonical_json,
    from_rfc3339,
    full_canonical_json,
    rfc3339,
)
from secrets_broker.ledger.envelope import (
    BODY,
    NO_PASSWORD,
    NONCE_BYTES,
    PASSWORD,
    SECRET_DATA,
    TAG_BYTES,
    bind,
    seal,
    unseal,
)
from secrets_broker.ledger.errors import DecryptionError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ciphertext belongs."""

    host: str
    purpose: str
    credential_id: int
    version: int

    def bind(self, label: str, *more: str) -> bytes:
        """The AAD of a ciphertext of this place."""
        return bind(label, *more, self.host, self.purpose, self.credential_id, self.version)


# A field with a default is left out where it is not set, so that bodies of the time before
# there was such a field, and those without it, are the same bytes.
class Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an event's body says and the projection's row holds; secrets stay sealed in it."""

    username: str | None
    domain: str | None
    additional_data: Any
    password_encrypted: str
    secret_data_encrypted: str | None
    expires_at: str | None = None
    rotate_after: int | None = None


_decoder = msgspec.json.Decoder(Body)


def seal_content(cipher: AESGCM, place: Place, content: Content) -> Body:
    """Seal what is secret in a content."""
    expires_at = rfc3339(content.expires_at) if content.expires_at else None
    plain = {
        "username": content.username,
        "domain": content.domain,
        "additional_data": content.additional_data,
        **_where_set(expires_at=expires_at, rotate_after=content.rotate_after),
    }
    secret_data = None
    if content.secret_data is not None:
        aad = _aad(SECRET_DATA, place, plain)
        secret_data = _to_text(seal(cipher, msgspec.json.encode(content.secret_data), aad))
    password = _seal_password(
        cipher, content.password, place, plain | _where_set(secret_data_encrypted=secret_data)
    )
    return Body(**plain, password_encrypted=password, secret_data_encrypted=secret_data)


def open_content(cipher: AESGCM, place: Place, body: Body) -> Content:
    """Open a content; raises DecryptionError where any field is not what was sealed."""
    plain = {
        "username": body.username,
        "domain": body.domain,
        "additional_data": body.additional_data,
        **_where_set(expires_at=body.expires_at, rotate_after=body.rotate_after),
    }
    sealed_data = _where_set(secret_data_encrypted=body.secret_data_encrypted)
    password = _open_password(cipher, body.password_encrypted, place, plain | sealed_data)
    secret_data = None
    if body.secret_data_encrypted is not None:
        sealed = _from_text(body.secret_data_encrypted)
        secret_data = msgspec.json.decode(unseal(cipher, sealed, _aad(SECRET_DATA, place, plain)))
    return Content(
        username=body.username,
        domain=body.domain,
        additional_data=body.additional_data,
        password=password,
        secret_data=secret_data,
        # Opened, so it is the text that was sealed, and that was made of a time.
        expires_at=from_rfc3339(body.expires_at) if body.expires_at else None,
        rotate_after=body.rotate_after,
    )


def seal_body(cipher: AESGCM, event_type: str, place: Place, body: Body) -> bytes:
    """Seal a body as a whole."""
    return seal(cipher, msgspec.json.encode(body), place.bind(BODY, event_type))


def open_body(cipher: AESGCM, event_type: str, place: Place, ciphertext: bytes) -> Body:
    """Open a body; raises DecryptionError."""
    return _decoder.decode(unseal(cipher, ciphertext, place.bind(BODY, event_type)))


def _seal_password(
    cipher: AESGCM, password: str | None, place: Place, served: dict[str, Any]
) -> str:
    # Where there is none, nothing is sealed, under a label of its own: no ciphertext at all would
    # leave the other fields unbound, and what is empty is another thing than what is not there.
    label = NO_PASSWORD if password is None else PASSWORD
    return _to_text(seal(cipher, (password or "").encode("utf-8"), _aad(label, place, served)))


def _open_password(cipher: AESGCM, text: str, place: Place, served: dict[str, Any]) -> str | None:
    sealed = _from_text(text)
    try:
        return unseal(cipher, sealed, _aad(PASSWORD, place, served)).decode("utf-8")
    except DecryptionError:
        if len(sealed) != NONCE_BYTES + TAG_BYTES:
            raise
    unseal(cipher, sealed, _aad(NO_PASSWORD, place, served))
    return None


def _where_set(**fields: str | int | None) -> dict[str, Any]:
    # A field beyond the first three is there only where it is set, so that a field which a
    # later version adds leaves the hashes of older rows as they are.
    return {name: value for name, value in fields.items() if value is not None}


def _aad(label: str, place: Place, served: dict[str, Any]) -> bytes:
    # Without additional_data there is no float and no key of its own, and both canonical
    # forms are the same bytes; the plain one takes a tenth of the time.
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

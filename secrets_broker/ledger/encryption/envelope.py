"""Authenticated encryption, and the AAD that binds each ciphertext to its place.

AES-256-GCM (NIST SP 800-38D). Every ciphertext is nonce[12] || ciphertext || tag[16]. A text
column holds the base64 of that. The additional authenticated data (AAD) is a canonical
JSON array that begins with a label, so that no ciphertext opens in another's place.
"""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secrets_broker.ledger.encoding import canonical_json
from secrets_broker.ledger.errors import DecryptionError

# SP 800-38D, section 8.2.2: with 96 random bits a key may seal 2^32 messages. A data key
# seals two or three for each version of one credential, a KEK one for each credential.
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
KEY_BYTES: Final = 32

PASSWORD: Final = "secrets-broker/v1/password"
NO_PASSWORD: Final = "secrets-broker/v1/no-password"
SECRET_DATA: Final = "secrets-broker/v1/secret-data"
BODY: Final = "secrets-broker/v1/body"
DATA_KEY: Final = "secrets-broker/v1/data-key"
CANARY: Final = "secrets-broker/v1/canary"
KEK: Final = "secrets-broker/v1/kek"
EVENT_KEY: Final = "secrets-broker/v1/event-key"


def bind(label: str, *place: str | int) -> bytes:
    """The AAD of a ciphertext: its label and its place."""
    return canonical_json([label, *place])


def seal(cipher: AESGCM, plaintext: bytes, aad: bytes) -> bytes:
    """Encrypt under a fresh random nonce."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plaintext, aad)


def unseal(cipher: AESGCM, sealed: bytes, aad: bytes | None) -> bytes:
    """Decrypt; raises DecryptionError for another key, another place, or any changed bit."""
    if not sealed or len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise DecryptionError("the ciphertext is too short to be one")
    try:
        return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad)
    except InvalidTag:
        # Not chained: the cause adds nothing, and a traceback should hold no bytes.
        raise DecryptionError("the ciphertext does not belong here, or was changed") from None

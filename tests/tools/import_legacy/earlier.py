"""An earlier installation: its way to seal a password, and rows to put into its tables.

The sealing is made of hashlib and AES-GCM alone, so that no code of ours vouches for itself.
"""

import os
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import pbkdf2_hmac
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.conftest import KMS_KEY, Database

PREVIOUS_KEY = "the-key-before-the-last-rotation"
LOST_KEY = "a-key-that-nobody-has-any-more"


@cache
def _cipher(kms_key: str) -> AESGCM:
    salt = b"opsconductor-secrets-v1"
    return AESGCM(pbkdf2_hmac("sha256", kms_key.encode(), salt, 100_000))


def sealed(password: str | bytes, kms_key: str = KMS_KEY) -> str:
    """base64(nonce || ciphertext || tag) under the derived key itself, with no AAD."""
    plain = password if isinstance(password, bytes) else password.encode()
    nonce = os.urandom(12)
    return b64encode(nonce + _cipher(kms_key).encrypt(nonce, plain, None)).decode()


@dataclass(frozen=True, slots=True)
class Earlier:
    """The tables of an earlier installation in a database, before or after they are set aside."""

    database: Database
    prefix: str = "legacy_"

    def credential(self, host: str, password: str | None = None, **columns: Any) -> int:
        """Store a credential; returns its id."""
        sealing = {} if password is None else {"password_encrypted": sealed(password)}
        return self._insert(
            "host_credentials", {"host": host, "purpose": "ssh"} | sealing | columns
        )

    def access(self, host: str, **columns: Any) -> int:
        """Log an access; returns the line's id."""
        row = {"host": host, "purpose": "ssh", "access_type": "read"} | columns
        return self._insert("credential_access_log", row)

    def _insert(self, table: str, row: dict[str, Any]) -> int:
        query = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(
            sql.Identifier("secrets", self.prefix + table),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join([sql.Placeholder()] * len(row)),
        )
        values = [Jsonb(v) if k == "additional_data" else v for k, v in row.items()]
        with self.database.owner() as connection:
            found: int = connection.execute(query, values).fetchall()[0][0]
        return found

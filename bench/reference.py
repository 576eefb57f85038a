"""The reference: the same work, done in the obvious way.

Falcon (WSGI) under gunicorn's gthread worker, a connection pool with a connection for each
thread, and one transaction a request: a lookup selects the row, decrypts it, inserts a row into
the access log, commits, and answers; an upsert is INSERT … ON CONFLICT and the same log row.
Plain AES-256-GCM under the one derived key, no AAD. The same key check, the same JSON in and
out, the same columns and indexes. Nothing is slow on purpose, and where there was a choice it
went to the faster side: psycopg prepares its statements, the log has no foreign key (which
would lock the credential's row), and it writes no request log and counts no metrics, which the
service it is compared with does.
"""

import os
from base64 import b64decode, b64encode
from hmac import compare_digest
from typing import Any, Final

import falcon
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import Connection
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

from secrets_broker.ledger.encryption.keyring import derive_key

THREADS: Final = 16

SCHEMA: Final = """
    CREATE SCHEMA reference;
    CREATE TABLE reference.host_credentials (
        id                 serial PRIMARY KEY,
        host               varchar(255) NOT NULL,
        purpose            varchar(50) NOT NULL,
        username           varchar(255),
        password_encrypted text NOT NULL,
        domain             varchar(255),
        additional_data    jsonb NOT NULL DEFAULT '{}',
        created_at         timestamptz NOT NULL DEFAULT now(),
        updated_at         timestamptz NOT NULL DEFAULT now(),
        created_by         varchar(100),
        updated_by         varchar(100),
        UNIQUE (host, purpose)
    );
    CREATE TABLE reference.credential_access_log (
        id            bigserial PRIMARY KEY,
        credential_id integer,
        host          varchar(255) NOT NULL,
        purpose       varchar(50) NOT NULL,
        accessed_by   varchar(100),
        access_type   varchar(50) NOT NULL,
        success       boolean NOT NULL DEFAULT true,
        error_message text,
        ip_address    inet,
        accessed_at   timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX ON reference.credential_access_log (credential_id);
    CREATE INDEX ON reference.credential_access_log (accessed_at);
    CREATE INDEX ON reference.credential_access_log (host);
"""

_SELECT: Final = """
    SELECT id, username, password_encrypted, domain, additional_data
    FROM reference.host_credentials WHERE host = %s AND purpose = %s
"""
_UPSERT: Final = """
    INSERT INTO reference.host_credentials (
        host, purpose, username, password_encrypted, domain, additional_data,
        created_by, updated_by)
    VALUES (%(host)s, %(purpose)s, %(username)s, %(password)s, %(domain)s, %(additional_data)s,
            %(actor)s, %(actor)s)
    ON CONFLICT (host, purpose) DO UPDATE SET
        username = excluded.username, password_encrypted = excluded.password_encrypted,
        domain = excluded.domain, additional_data = excluded.additional_data,
        updated_at = now(), updated_by = excluded.updated_by
    RETURNING id, xmax = 0
"""
_LOG: Final = """
    INSERT INTO reference.credential_access_log (
        credential_id, host, purpose, accessed_by, access_type, success, error_message, ip_address)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
"""

Pool = ConnectionPool[Connection[tuple[Any, ...]]]


class _KeyCheck:
    def __init__(self, internal_key: str) -> None:
        self._key = internal_key.encode()

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        presented = (req.get_header("X-Internal-Key") or "").encode("utf-8", "replace")
        if req.path.startswith("/internal/") and not compare_digest(presented, self._key):
            raise falcon.HTTPForbidden


class _Lookup:
    def __init__(self, pool: Pool, cipher: AESGCM) -> None:
        self._pool = pool
        self._cipher = cipher

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        host, purpose = _texts(req.media, "host", "purpose")
        with self._pool.connection() as connection:
            row = connection.execute(_SELECT, (host, purpose)).fetchone()
            password = _open(self._cipher, row[2]) if row else None
            error = None if row else "not_found"
            who = (req.get_header("X-Service-Name") or "internal", "read")
            log = (row and row[0], host, purpose, *who, row is not None, error, req.remote_addr)
            connection.execute(_LOG, log)
        if row is None:
            resp.status = falcon.HTTP_404
            resp.media = {"reason": "not_found"}
            return
        resp.media = {
            "host": host,
            "purpose": purpose,
            "username": row[1],
            "password": password,
            "domain": row[3],
            "additional_data": row[4],
        }


class _Upsert:
    def __init__(self, pool: Pool, cipher: AESGCM) -> None:
        self._pool = pool
        self._cipher = cipher

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        body = req.media
        host, purpose, password = _texts(body, "host", "purpose", "password")
        actor = req.get_header("X-Service-Name") or "internal"
        values = {
            "host": host,
            "purpose": purpose,
            "username": body.get("username"),
            "password": _seal(self._cipher, password),
            "domain": body.get("domain"),
            "additional_data": Jsonb(body.get("additional_data") or {}),
            "actor": actor,
        }
        with self._pool.connection() as connection:
            row = connection.execute(_UPSERT, values).fetchone()
            assert row is not None
            kind = "create" if row[1] else "update"
            log = (row[0], host, purpose, actor, kind, True, None, req.remote_addr)
            connection.execute(_LOG, log)
        resp.media = {"success": True, "credential_id": row[0], "host": host, "purpose": purpose}


def create_app(database_url: str, internal_key: str, kms_key: str) -> "falcon.App[Any, Any]":
    """Put the reference together; called in each worker, after the fork."""
    pool: Pool = ConnectionPool(database_url, min_size=THREADS, max_size=THREADS, open=True)
    cipher = AESGCM(derive_key(kms_key))
    app: falcon.App[Any, Any] = falcon.App(middleware=[_KeyCheck(internal_key)])
    app.add_route("/internal/secrets/credential-lookup", _Lookup(pool, cipher))
    app.add_route("/internal/secrets/credential-upsert", _Upsert(pool, cipher))
    return app


def from_environment() -> "falcon.App[Any, Any]":
    """The application as gunicorn starts it."""
    return create_app(
        os.environ["DATABASE_URL"], os.environ["INTERNAL_KEY"], os.environ["SECRETS_KMS_KEY"]
    )


def _texts(body: Any, *fields: str) -> list[str]:
    if not isinstance(body, dict) or not all(isinstance(body.get(f), str) for f in fields):
        raise falcon.HTTPBadRequest
    return [body[field] for field in fields]


def _seal(cipher: AESGCM, text: str) -> str:
    nonce = os.urandom(12)
    return b64encode(nonce + cipher.encrypt(nonce, text.encode(), None)).decode("ascii")


def _open(cipher: AESGCM, sealed: str) -> str:
    raw = b64decode(sealed)
    return cipher.decrypt(raw[:12], raw[12:], None).decode()

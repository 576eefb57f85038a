"""A stand-in for Vault's Transit: real HTTP, real AES-GCM, key versions, and its refusals.

Written after the API's documentation; where it differs from a real server, the tests do not
notice. It holds one key, `kek`, in the mount `transit`.
"""

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.certificates import scheme
from tests.ledger.encryption.kms.helpers import serving

TOKEN = "hvs.not-a-real-token"
Reply = tuple[int, dict[str, object]]


@dataclass(slots=True)
class Vault:
    """The server's state, which a test sets as it needs it."""

    versions: list[AESGCM] = field(default_factory=lambda: [AESGCM(os.urandom(32))])
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    sealed: bool = False
    min_decryption_version: int = 1
    knows_associated_data: bool = True
    aead: bool = True
    refusal_status: int = 400
    # Replies that go before everything else, the first first.
    next_replies: list[Reply] = field(default_factory=list)
    silent: bool = False
    done: Event = field(default_factory=Event)
    requests: list[str] = field(default_factory=list)
    origin: str = ""

    def answer(self, path: str, token: str, body: dict[str, str]) -> Reply:
        """The status and body for a POST."""
        self.requests.append(path)
        if self.silent:
            self.done.wait(10)
        if self.next_replies:
            return self.next_replies.pop(0)
        if self.sealed:
            return errors(503, "Vault is sealed")
        if token not in self.tokens:
            return errors(403, "permission denied")
        if path == "/v1/transit/encrypt/kek":
            return self._encrypt(body)
        if path == "/v1/transit/decrypt/kek":
            return self._decrypt(body)
        if path.startswith("/v1/transit/"):
            return errors(400, "encryption key not found")
        return errors(404, "no handler for route")

    def _encrypt(self, body: dict[str, str]) -> Reply:
        if not self.aead:
            return errors(400, "'[0].associated_data' provided for non-AEAD cipher suite rsa-4096")
        nonce = os.urandom(12)
        plain = b64decode(body["plaintext"], validate=True)
        sealed = nonce + self.versions[-1].encrypt(nonce, plain, self._associated(body))
        text = f"vault:v{len(self.versions)}:{b64encode(sealed).decode()}"
        return 200, {"data": {"ciphertext": text, "key_version": len(self.versions)}}

    def _decrypt(self, body: dict[str, str]) -> Reply:
        prefix, _, rest = body["ciphertext"].partition(":v")
        version, _, text = rest.partition(":")
        if prefix != "vault":
            return errors(400, "invalid ciphertext: no prefix")
        if not version.isdecimal() or int(version) > len(self.versions):
            return errors(400, "invalid ciphertext: version is too new")
        if max(int(version), 1) < self.min_decryption_version:
            return errors(400, "ciphertext or signature version is disallowed by policy (too old)")
        try:
            raw = b64decode(text, validate=True)
        except ValueError:
            return errors(400, "invalid ciphertext: could not decode base64")
        try:
            # Vault takes version 0, of its first releases, for 1.
            cipher = self.versions[max(int(version), 1) - 1]
            plain = cipher.decrypt(raw[:12], raw[12:], self._associated(body))
        except (InvalidTag, ValueError):
            return errors(self.refusal_status, "cipher: message authentication failed")
        return 200, {"data": {"plaintext": b64encode(plain).decode()}}

    def _associated(self, body: dict[str, str]) -> bytes | None:
        return b64decode(body["associated_data"]) if self.knows_associated_data else None


def errors(status: int, *texts: str) -> Reply:
    """An error as Vault words one."""
    return status, {"errors": list(texts)}


@contextmanager
def running(vault: Vault, certificate: Path | None = None) -> Iterator[Vault]:
    """Serve it, over TLS where there is a certificate (and its key, in one file)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, reply = vault.answer(self.path, self.headers["X-Vault-Token"], body)
            if vault.silent:
                return
            raw = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.send_header("Location", f"{vault.origin}/v1/elsewhere")
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as server:
        vault.origin = f"{scheme(server, certificate)}://127.0.0.1:{server.server_address[1]}"
        yield vault
        vault.done.set()

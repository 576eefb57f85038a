"""Transit of HashiCorp Vault or OpenBao: ``transit+https://vault.example:8200/transit/keys/kek``.

The path is the API's own for the key: the mount (with a namespace before it, where there is one),
``keys``, and the name. ``?ca-file=/path`` names the authority that signed the server's
certificate; without it the system's are trusted. ``transit+http`` only speaks to a loopback
address, for an agent on the same machine. The token is VAULT_TOKEN and never stands in the URL.

A wrap is the text that Transit answers (``vault:v1:…``), bound by ``associated_data``, which
Transit supports for AEAD keys (aes256-gcm96, chacha20-poly1305) from Vault 1.13 on. An older Vault
ignores it silently; so each wrap is tried once with other associated data.

This has been tested against a stand-in only, written after the API's documentation
(https://developer.hashicorp.com/vault/api-docs/secret/transit), never against a real server.
"""

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from secrets_broker.ledger.encryption.envelope import KEK, bind
from secrets_broker.ledger.encryption.kms.provider import (
    binding,
    checked,
    failed,
    quoted,
    refused,
    unforeseen,
    unwrapped,
)
from secrets_broker.ledger.encryption.kms.transit_http import TransitAnswer, ask, words
from secrets_broker.ledger.encryption.kms.url import parameters, require_safe_transport, split
from secrets_broker.ledger.errors import DecryptionError, KmsError, KmsUrlError
from secrets_broker.outbound.address import Endpoint
from secrets_broker.outbound.client import UnreachableError

_PATH: Final = re.compile(r"/(?P<mount>[\w.-]+(?:/[\w.-]+)*)/keys/(?P<key>[\w.-]+)", re.ASCII)
# Vault reads version 0 as 1, so a changed byte there would go unnoticed.
_WRAP: Final = re.compile(r"vault:v[1-9][0-9]*:[A-Za-z0-9+/]+={0,2}")
# A token goes into a header, where a line end would begin another one.
_TOKEN: Final = re.compile(r"[!-~]+")

# Transit's texts for a wrap that does not open, with 400 or, in some versions, 500:
# https://github.com/hashicorp/vault/issues/10842
_REFUSALS: Final = ("invalid ciphertext", "message authentication failed")

_ADVICE: Final = {
    307: "this server is a standby: name the active one, or the cluster's own address",
    400: "check the key's name, type (aes256-gcm96) and min_decryption_version",
    403: "give a valid VAULT_TOKEN, whose policy allows update on encrypt/ and decrypt/ of the key",
    404: "check the mount and that the transit engine is enabled there",
    429: "the server limits the rate of requests: start again later, or ask for a higher quota",
    503: "the server is sealed or in maintenance: unseal it",
}


@dataclass(frozen=True, slots=True)
class Transit:
    """A key of a Transit engine."""

    endpoint: Endpoint
    mount: str
    key: str
    token: str = field(repr=False)

    @property
    def id(self) -> str:
        """The URL without its query."""
        return f"transit+{self.endpoint.origin}/{self.mount}/keys/{self.key}"

    def wrap(self, key: bytes, kek_id: str) -> bytes:
        """Encrypt under the newest version of the key; raises KmsError."""
        request = {"plaintext": _text(checked(key)), "associated_data": _text(binding(kek_id))}
        answer = self._ask("encrypt", request, key)
        wrapped = self._field(answer, "ciphertext")
        if not _WRAP.fullmatch(wrapped):
            raise self._malformed("ciphertext")
        self._require_binding(wrapped, kek_id)
        return wrapped.encode("ascii")

    def unwrap(self, wrapped: bytes, kek_id: str) -> bytes:
        """Decrypt, with whichever version wrapped it; raises DecryptionError, KmsError."""
        text = wrapped.decode("ascii", "replace")
        if not _WRAP.fullmatch(text):
            raise refused(self.id, "it has not the form of a wrap")
        return self._decrypt(text, binding(kek_id))

    def close(self) -> None:
        """Nothing is held open between calls."""

    def _decrypt(self, ciphertext: str, associated: bytes) -> bytes:
        request = {"ciphertext": ciphertext, "associated_data": _text(associated)}
        answer = self._ask("decrypt", request)
        try:
            plain = b64decode(self._field(answer, "plaintext"), validate=True)
        except ValueError:
            raise self._malformed("plaintext") from None
        return unwrapped(self.id, plain)

    def _require_binding(self, wrapped: str, kek_id: str) -> None:
        try:
            self._decrypt(wrapped, bind(KEK, kek_id, "another"))
        except DecryptionError:
            return
        raise failed(
            self.id,
            "it ignores associated_data, so that one wrapped KEK would open in another's place",
            "use Vault 1.13, OpenBao 2.0 or newer",
        )

    def _ask(
        self, action: str, request: dict[str, str], secret: bytes | None = None
    ) -> TransitAnswer:
        try:
            path = f"/v1/{self.mount}/{action}/{self.key}"
            answer = ask(self.endpoint, path, self.token, request)
        except UnreachableError as error:
            advice = "check that this machine reaches the server, and its certificate"
            raise failed(self.id, quoted(words(error), secret, self.token), advice) from None
        except Exception as error:
            # Not an error of the library itself: its text may hold anything, so only its type is
            # told.
            raise unforeseen(self.id, error) from None
        if answer.status != 200:
            raise self._error(action, answer, secret)
        return answer

    def _error(
        self, action: str, answer: TransitAnswer, secret: bytes | None
    ) -> KmsError | DecryptionError:
        words = quoted("; ".join(answer.errors), secret, self.token) or "no message"
        text = f"HTTP {answer.status}: {words}"
        if action == "decrypt" and answer.status in (400, 500) and _is_refusal(answer):
            return refused(self.id, text)
        return failed(self.id, text, _ADVICE.get(answer.status, "see the server's log"))

    def _field(self, answer: TransitAnswer, name: str) -> str:
        value = answer.data.get(name)
        if not isinstance(value, str) or not value.isascii():
            raise self._malformed(name)
        return value

    def _malformed(self, name: str) -> KmsError:
        return failed(
            self.id, f"an answer without a usable {name}", "check that this address is Vault's"
        )


def open_transit(url: str, token: str | None) -> Transit:
    """Read the URL of this module's docstring; raises KmsUrlError, and KmsError without a token."""
    parts = split(url)
    query = parameters(parts, ("ca-file",))
    require_safe_transport(parts, "the URL of the KMS")
    path = _PATH.fullmatch(unquote(parts.path))
    if path is None or parts.hostname is None:
        raise KmsUrlError("a transit URL's path is <mount>/keys/<name>")
    ca_file = Path(query["ca-file"]) if "ca-file" in query else None
    endpoint = Endpoint(parts.scheme.endswith("https"), parts.hostname, parts.port or 8200, ca_file)
    transit = Transit(endpoint, path["mount"], path["key"], token or "")
    if not _TOKEN.fullmatch(transit.token):
        answer = "the token holds a character that none has" if token else "no token"
        raise failed(transit.id, answer, "set VAULT_TOKEN")
    return transit


def _is_refusal(answer: TransitAnswer) -> bool:
    return any(words in error for words in _REFUSALS for error in answer.errors)


def _text(octets: bytes) -> str:
    return b64encode(octets).decode("ascii")

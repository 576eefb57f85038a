"""PKCS#11 URIs (RFC 7512), as far as they name one key of one token.

Of the path: ``token`` and ``serial`` (of which one is needed), ``object`` and ``id`` (likewise),
``type``, which may only be ``secret-key``. Of the query: ``module-path``, needed, and
``pin-source``. Other attributes are refused, and none may occur twice (section 2.3).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from secrets_broker.ledger.errors import KmsUrlError

_PATH: Final = ("token", "serial", "object", "id", "type")
_QUERY: Final = ("module-path", "pin-source")


@dataclass(frozen=True, slots=True)
class Pkcs11Url:
    """The key, the module, and the file with the PIN if one is named."""

    module: Path
    path: Mapping[str, str]
    pin_file: Path | None

    @property
    def id(self) -> str:
        """The URI without its query: token and key, in canonical order and spelling."""
        named = (f"{name}={self._spelt(name)}" for name in _PATH if name in self.path)
        return "pkcs11:" + ";".join(named)

    def text(self, name: str) -> str | None:
        """An attribute of the path, or None."""
        return unquote(self.path[name]) if name in self.path else None

    def octets(self, name: str) -> bytes | None:
        """An attribute of the path that need not be text (section 2.4), or None."""
        return unquote_to_bytes(self.path[name]) if name in self.path else None

    def _spelt(self, name: str) -> str:
        octets = unquote_to_bytes(self.path[name])
        return "".join(f"%{o:02X}" for o in octets) if name == "id" else quote(octets, safe="")


def parse(url: str) -> Pkcs11Url:
    """Read a URI; raises KmsUrlError."""
    parts = urlsplit(url)
    if parts.netloc or parts.fragment:
        raise KmsUrlError("a pkcs11 URI has neither a host (//) nor a fragment (#)")
    query = _attributes(parts.query, "&", _QUERY)
    path = _attributes(parts.path, ";", _PATH)
    _require_one_key(path)
    if "module-path" not in query:
        raise KmsUrlError("a pkcs11 URI needs ?module-path=, the token's library")
    module = _file(query["module-path"], "module-path")
    pin_file = _file(query["pin-source"], "pin-source") if "pin-source" in query else None
    return Pkcs11Url(module, path, pin_file)


def _attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise KmsUrlError(
                "pin-value puts the PIN into the URI, and URIs end in logs and process lists: "
                "name a file by pin-source, or set SECRETS_KMS_PIN"
            )
        if name not in known or not equals or not value:
            raise KmsUrlError(f"an attribute of the pkcs11 URI is not one of: {', '.join(known)}")
        if name in found:
            raise KmsUrlError(f"the pkcs11 URI has {name} twice")
        found[name] = value
    return found


def _require_one_key(path: Mapping[str, str]) -> None:
    if not path.keys() & {"token", "serial"}:
        raise KmsUrlError("a pkcs11 URI names its token, by token= or serial=")
    if not path.keys() & {"object", "id"}:
        raise KmsUrlError("a pkcs11 URI names its key, by object= or id=")
    if path.get("type", "secret-key") != "secret-key":
        raise KmsUrlError("a pkcs11 URI's type has to be secret-key")


def _file(value: str, name: str) -> Path:
    """A path, or a file: URL of one (section 2.4); a command (|…) is not run."""
    text = unquote(value)
    if text.startswith("file:"):
        text = text.removeprefix("file:").removeprefix("//")
    if not text.startswith("/"):
        raise KmsUrlError(f"{name} has to be an absolute path, or file: and one")
    return Path(text)

"""A witness's address, and one add-checkpoint request to it over HTTP."""

import re
from dataclasses import dataclass
from typing import Final

from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.transparency_log.add_checkpoint import PATH
from secrets_broker.ledger.transparency_log.note import COSIGNATURE, NoteError, VerifierKey
from secrets_broker.outbound.address import Endpoint, HttpUrlError, parse_url
from secrets_broker.outbound.client import REQUEST_SECONDS, HttpAnswer, HttpRequest, ask_apart

_HEADERS: Final = {"Content-Type": "text/plain; charset=utf-8"}
# The characters allowed in a request line; all others must be escaped in the URL.
_PREFIX: Final = re.compile(r"(?:/[\w.~!$&'()*+,;=:@%-]*)*", re.ASCII)


class WitnessUrlError(LedgerError, ValueError):
    """A malformed URL or key of a witness; the text does not repeat it."""


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness: its submission prefix, and the key that its cosignatures verify with."""

    endpoint: Endpoint
    prefix: str
    key: VerifierKey

    @classmethod
    def parse(cls, url: str, key: str) -> "Witness":
        """Read a submission prefix and a verifier key; raises WitnessUrlError."""
        try:
            verifier = VerifierKey.parse(key)
        except NoteError as error:
            raise WitnessUrlError(str(error)) from None
        if verifier.kind != COSIGNATURE:
            raise WitnessUrlError(
                f"the key of {verifier.name} is not a witness's: it has another signature type"
            )
        return cls(*_split(url), verifier)

    @property
    def url(self) -> str:
        """The submission prefix, without a slash at its end."""
        return self.endpoint.origin + self.prefix


def _split(url: str) -> tuple[Endpoint, str]:
    try:
        endpoint, parts = parse_url("a witness", url)
    except HttpUrlError as error:
        raise WitnessUrlError(str(error)) from None
    if "@" in parts.netloc or parts.query or parts.fragment or not _PREFIX.fullmatch(parts.path):
        raise WitnessUrlError("the URL of a witness has host, port and path, and nothing else")
    return endpoint, parts.path.rstrip("/")


async def submit(witness: Witness, body: bytes, seconds: float = REQUEST_SECONDS) -> HttpAnswer:
    """POST a request, and read at most 64 KiB of the answer; raises UnreachableError."""
    request = HttpRequest("POST", witness.prefix + PATH, _HEADERS, body)
    return await ask_apart(witness.endpoint, request, seconds)

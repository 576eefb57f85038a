"""One request to Vault's HTTP API: JSON in, JSON out, a few seconds, a few tries."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from secrets_broker.outbound.address import Endpoint
from secrets_broker.outbound.client import HttpRequest, TooLongError, UnreachableError, ask_once

# Pauses between the tries, in seconds; Vault's own clients make three tries too.
_PAUSES: Final = (0.25, 0.5)
# Rate limit, and what a server or its load balancer answers temporarily:
# https://developer.hashicorp.com/vault/api-docs#http-status-codes
_PASSING: Final = frozenset({412, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class TransitAnswer:
    """What the server answered; `data` may hold a key in clear."""

    status: int
    data: Mapping[str, object] = field(default_factory=dict, repr=False)
    errors: tuple[str, ...] = field(default=(), repr=False)


def ask(endpoint: Endpoint, path: str, token: str, body: Mapping[str, str]) -> TransitAnswer:
    """POST a JSON object, and retry if the failure may pass; raises UnreachableError."""
    for pause in _PAUSES:
        try:
            answer = _ask_once(endpoint, path, token, body)
        except UnreachableError:
            time.sleep(pause)
            continue
        if answer.status not in _PASSING:
            return answer
        time.sleep(pause)
    return _ask_once(endpoint, path, token, body)


def _ask_once(endpoint: Endpoint, path: str, token: str, body: Mapping[str, str]) -> TransitAnswer:
    headers = {
        "Content-Type": "application/json",
        "X-Vault-Token": token,
        # Vault's agents can be set to refuse requests without it (against forgery by browsers).
        "X-Vault-Request": "true",
    }
    answer = ask_once(endpoint, HttpRequest("POST", path, headers, json.dumps(body).encode()))
    return _read(answer.status, answer.body)


def words(error: UnreachableError) -> str:
    """Why there is no answer, with the error's name; may quote the answer."""
    if isinstance(error, TooLongError) or isinstance(error.cause, TimeoutError):
        return str(error)
    return f"{type(error.cause).__name__}: {error.cause}"


def _read(status: int, raw: bytes) -> TransitAnswer:
    try:
        document = json.loads(raw)
    except ValueError:
        return TransitAnswer(status)
    if not isinstance(document, dict):
        return TransitAnswer(status)
    data, errors = document.get("data"), document.get("errors")
    return TransitAnswer(
        status,
        data if isinstance(data, dict) else {},
        tuple(str(error) for error in errors) if isinstance(errors, list) else (),
    )

"""What the tests of the providers share: a KEK, its id, and how an error has to look."""

import re
import sys
import traceback
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from hypothesis import strategies as st

from secrets_broker.ledger.encryption.kms import Provider
from secrets_broker.ledger.errors import LedgerError

KEY = bytes(range(200, 232))
KEK_ID = "63c8d1e0a03f461b34709bef019f6c6c"
OTHER_ID = "00112233445566778899aabbccddeeff"

keys = st.binary(min_size=32, max_size=32)
kek_ids = st.text("0123456789abcdef", min_size=32, max_size=32)


def flips(wrapped: bytes) -> Iterator[bytes]:
    """The wrap with each of its bytes changed alone."""
    for index, byte in enumerate(wrapped):
        yield wrapped[:index] + bytes([byte ^ 1]) + wrapped[index + 1 :]


@contextmanager
def refusal(
    kind: type[LedgerError] | tuple[type[LedgerError], ...], words: str, *secrets: str | bytes
) -> Iterator[None]:
    """An error of this kind whose text has these words, and which shows no secret anywhere."""
    with pytest.raises(kind) as caught:
        yield
    assert re.search(words, str(caught.value)), str(caught.value)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert caught.value.__cause__ is None
    for secret in (KEY, *secrets):
        raw = secret.encode() if isinstance(secret, str) else secret
        for spelling in (repr(raw)[2:-1], raw.hex(), b64encode(raw).decode()):
            assert spelling not in shown


def assert_round_trip(provider: Provider, key: bytes = KEY, kek_id: str = KEK_ID) -> None:
    """What a provider wraps it unwraps, and the wrap does not show the key."""
    wrapped = provider.wrap(key, kek_id)
    assert key not in wrapped
    assert provider.unwrap(wrapped, kek_id) == key


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    """A real HTTP server on a free port of the loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


PYTHON = sys.executable

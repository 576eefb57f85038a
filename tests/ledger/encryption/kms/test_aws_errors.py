"""AWS KMS's refusals and silences, from a real HTTP server: moto has none of them."""

import json
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from threading import Event

import pytest
from botocore.config import Config

from secrets_broker.ledger.encryption.kms import open_provider
from secrets_broker.ledger.encryption.kms.aws import AwsKms
from secrets_broker.ledger.errors import DecryptionError, KmsError
from tests.ledger.encryption.kms.helpers import KEK_ID, KEY, refusal, serving

ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
SECRET = "wJalrXUtnFEMI-not-a-real-secret"
QUICK = Config(
    connect_timeout=0.2, read_timeout=0.2, retries={"mode": "standard", "total_max_attempts": 2}
)


@dataclass(slots=True)
class Kms:
    """A KMS that knows its key and refuses everything else, or says nothing at all."""

    error: tuple[int, str, str] = (400, "AccessDeniedException", "not authorized")
    silent: bool = False
    done: Event = field(default_factory=Event)
    calls: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def provider(self) -> AwsKms:
        """A provider that speaks to it."""
        provider = open_provider(f"aws-kms:///{ARN}?endpoint=http://127.0.0.1:{self.port}")
        assert isinstance(provider, AwsKms)
        return provider

    def answer(self, operation: str) -> tuple[int, dict[str, object]]:
        """Status and body, in the form of AWS's JSON 1.1 protocol."""
        self.calls.append(operation)
        if self.silent:
            self.done.wait(10)
        if operation == "DescribeKey":
            return 200, {"KeyMetadata": {"Arn": ARN, "KeyId": ARN}}
        status, code, message = self.error
        return status, {"__type": code, "message": message}


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kms]:
    """The server, and credentials for it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    state = Kms()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = state.answer(self.headers["X-Amz-Target"].partition(".")[2])
            if state.silent:
                return
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as server:
        state.port = server.server_address[1]
        yield state
        state.done.set()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("AccessDeniedException", "allow kms:Encrypt, kms:Decrypt and kms:DescribeKey"),
        ("DisabledException", "enable the key"),
        ("KMSInvalidStateException", "cancel its deletion"),
        ("InvalidKeyUsageException", "symmetric"),
        ("UnrecognizedClientException", "credentials"),
        ("ExpiredTokenException", "credentials"),
        ("InvalidSignatureException", "clock"),
        ("SomethingNewException", "API reference"),
    ],
)
def test_a_refusal_names_key_answer_and_remedy(kms: Kms, code: str, advice: str) -> None:
    """Both calls' errors hold the key's ARN, AWS's code and message, and what to do."""
    kms.error = (400, code, "Here is why.")
    words = f"aws-kms:{ARN}: {code}: Here is why.; .*{advice}"
    with refusal(KmsError, words, SECRET):
        kms.provider.wrap(KEY, KEK_ID)
    with refusal(KmsError, words, SECRET):
        kms.provider.unwrap(b"wrapped", KEK_ID)


def test_throttling_is_tried_three_times(kms: Kms) -> None:
    """A throttled request is sent three times in all, then given up, by its name."""
    kms.error = (400, "ThrottlingException", "Rate exceeded")
    with refusal(KmsError, "ThrottlingException: Rate exceeded; AWS limits the rate", SECRET):
        kms.provider.wrap(KEY, KEK_ID)
    assert kms.calls == ["DescribeKey", "Encrypt", "Encrypt", "Encrypt"]


@pytest.mark.parametrize("code", ["InvalidCiphertextException", "IncorrectKeyException"])
def test_a_wrap_of_another_key_or_place_does_not_open(kms: Kms, code: str) -> None:
    """AWS's two words for a wrap that is wrong are DecryptionError: trying again is no use."""
    kms.error = (400, code, "")
    with refusal(DecryptionError, f"does not open .*{code}"):
        kms.provider.unwrap(b"wrapped", KEK_ID)


def test_an_answer_that_repeats_the_key_is_withheld(kms: Kms) -> None:
    """A message that holds the KEK, in the spelling of a request, is not shown."""
    text = b64encode(KEY).decode()
    kms.error = (400, "ValidationException", f"Value '{text}' at 'plaintext'")
    with refusal(KmsError, "ValidationException: .its answer repeats a secret"):
        kms.provider.wrap(KEY, KEK_ID)
    kms.error = (400, text, "")
    with refusal(KmsError, ": .its answer repeats a secret.*: no message"):
        kms.provider.wrap(KEY, KEK_ID)


def test_a_page_of_a_proxy_is_one_short_line(kms: Kms) -> None:
    """An endless message of several lines becomes one line that is cut."""
    kms.error = (400, "Odd", "\x1b[31mline\r\n" * 500)
    with pytest.raises(KmsError) as caught:
        kms.provider.wrap(KEY, KEK_ID)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1_000


def test_a_silent_service_is_given_up(kms: Kms) -> None:
    """A server that never answers: ReadTimeoutError, after tries whose time is bounded."""
    kms.silent = True
    begun = time.monotonic()
    with refusal(KmsError, "ReadTimeoutError.*reaches the endpoint", SECRET):
        _ = replace(kms.provider, config=QUICK).id
    assert time.monotonic() - begun < 5
    assert len(kms.calls) == 2


def test_nobody_listens(kms: Kms) -> None:
    """A closed port: EndpointConnectionError, which names the endpoint."""
    with serving(BaseHTTPRequestHandler) as server:
        port = server.server_address[1]
    provider = replace(kms.provider, config=QUICK, endpoint=f"http://127.0.0.1:{port}")
    with refusal(KmsError, f"EndpointConnectionError: .*:{port}", SECRET):
        _ = provider.id


def test_timeouts_and_tries_are_bounded(kms: Kms) -> None:
    """What is used unless told otherwise: 3 s to connect, 5 s to read, three tries in all."""
    config = vars(kms.provider.config)
    assert (config["connect_timeout"], config["read_timeout"]) == (3, 5)
    assert config["retries"] == {"mode": "standard", "total_max_attempts": 3}


def test_no_credentials(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials nothing is sent, and the error says where they come from."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with refusal(KmsError, "NoCredentialsError.*AWS_ACCESS_KEY_ID"):
        _ = kms.provider.id
    assert kms.calls == []


def test_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """An alias without a region anywhere: the error says how to name one."""
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with refusal(KmsError, r"NoRegionError.*\?region="):
        _ = open_provider("aws-kms:///alias/kek").id


def test_what_nobody_foresaw_is_ours_too(kms: Kms) -> None:
    """Any other error of the library becomes a KmsError with its type and none of its words."""
    kms.error = (400, "x", "")
    broken = replace(kms.provider, config=None)  # type: ignore[arg-type]
    broken = replace(broken, endpoint="http://[")
    with refusal(KmsError, "unexpected builtins.ValueError"):
        _ = broken.id

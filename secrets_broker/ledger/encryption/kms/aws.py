"""AWS KMS: ``aws-kms:///<key>?region=eu-central-1&endpoint=https://…``.

The key is an id, an ARN, or ``alias/<name>``, of a symmetric key. The region is that of the URL,
else of the ARN, else boto3's own; an endpoint is only needed for a VPC endpoint without private
DNS, and for tests. Credentials come by boto3's chain (environment, profile, role) and never stand
in the URL.

The wrap is Encrypt's CiphertextBlob with an encryption context, which KMS uses as additional
authenticated data and writes to CloudTrail:
https://docs.aws.amazon.com/kms/latest/developerguide/encrypt_context.html
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from secrets_broker.ledger.encryption.envelope import KEK
from secrets_broker.ledger.encryption.kms.aws_advice import advice_on
from secrets_broker.ledger.encryption.kms.provider import (
    checked,
    failed,
    quoted,
    refused,
    unforeseen,
    unwrapped,
)
from secrets_broker.ledger.encryption.kms.url import parameters, require_safe_transport, split
from secrets_broker.ledger.errors import DecryptionError, KmsError, KmsUrlError

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient

# Seconds, and tries in all. A start that cannot reach KMS says so within half a minute.
_CONFIG: Final = Config(
    connect_timeout=3,
    read_timeout=5,
    retries={"mode": "standard", "total_max_attempts": 3},
)

# Decrypt's errors for a bad wrap: the first for a changed byte or another encryption context, the
# second for the wrap of another key.
# https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html
_REFUSALS: Final = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})

# The longest CiphertextBlob that Decrypt takes, in bytes.
_MAX_WRAPPED: Final = 6_144

# arn:partition:kms:region:account:key/…
_ARN_PARTS: Final = 6


@dataclass(frozen=True)
class AwsKms:
    """A key in AWS KMS. Calls are rare, so each makes a client: no socket outlives a fork."""

    key: str
    region: str | None
    endpoint: str | None
    config: Config = field(default=_CONFIG, repr=False)
    session: Session = field(default_factory=Session, repr=False)

    @property
    def id(self) -> str:
        """The key's ARN as KMS answers it, since an alias may be moved to another key."""
        return f"aws-kms:{self._arn}"

    def wrap(self, key: bytes, kek_id: str) -> bytes:
        """Encrypt under the key that `id` names; raises KmsError."""
        arn, plain = self._arn, checked(key)
        with self._client(key) as client:
            answer = client.encrypt(KeyId=arn, Plaintext=plain, EncryptionContext=_context(kek_id))
            return answer["CiphertextBlob"]

    def unwrap(self, wrapped: bytes, kek_id: str) -> bytes:
        """Decrypt with this key and no other; raises DecryptionError, KmsError."""
        if not 0 < len(wrapped) <= _MAX_WRAPPED:
            raise refused(self._name, "it has a length that no wrap has")
        arn = self._arn
        with self._client() as client:
            answer = client.decrypt(
                KeyId=arn, CiphertextBlob=wrapped, EncryptionContext=_context(kek_id)
            )
            return unwrapped(self._name, answer["Plaintext"])

    def close(self) -> None:
        """Nothing is held open between calls."""

    @cached_property
    def _arn(self) -> str:
        with self._client() as client:
            return client.describe_key(KeyId=self.key)["KeyMetadata"]["Arn"]

    @property
    def _name(self) -> str:
        return f"aws-kms:{self.key}"

    @contextmanager
    def _client(self, secret: bytes | None = None) -> "Iterator[KMSClient]":
        """A client whose errors become ours."""
        try:
            client: KMSClient = self.session.client(
                "kms", region_name=self.region, endpoint_url=self.endpoint, config=self.config
            )
            with closing(client):
                yield client
        except (KmsError, DecryptionError):
            raise
        except ClientError as error:
            raise self._answered(error, secret) from None
        except BotoCoreError as error:
            answer = f"{type(error).__name__}: {quoted(str(error), secret)}"
            raise failed(self._name, answer, advice_on(type(error).__name__)) from None
        except Exception as error:
            # Not an error of the library itself: its text may hold anything, so only its type is
            # told.
            raise unforeseen(self._name, error) from None

    def _answered(self, error: ClientError, secret: bytes | None) -> KmsError | DecryptionError:
        details = error.response.get("Error", {})
        code = quoted(details.get("Code", "no code"), secret)
        answer = f"{code}: {quoted(details.get('Message') or 'no message', secret)}"
        if code in _REFUSALS and error.operation_name == "Decrypt":
            return refused(self._name, answer)
        return failed(self._name, answer, advice_on(code))


def open_aws(url: str) -> AwsKms:
    """Read the URL of this module's docstring; raises KmsUrlError."""
    parts = split(url)
    query = parameters(parts, ("region", "endpoint"))
    key = unquote(parts.path).removeprefix("/")
    if parts.netloc or not key:
        raise KmsUrlError("an aws-kms URL names its key after three slashes: aws-kms:///alias/kek")
    endpoint = query.get("endpoint")
    if endpoint is not None:
        require_safe_transport(split(endpoint), "the endpoint of the aws-kms URL")
    return AwsKms(key, query.get("region") or _region_of(key), endpoint)


def _region_of(key: str) -> str | None:
    parts = key.split(":")
    return parts[3] if parts[0] == "arn" and len(parts) == _ARN_PARTS else None


def _context(kek_id: str) -> dict[str, str]:
    return {"purpose": KEK, "kek-id": kek_id}

"""AWS KMS, against moto's server: real requests, and ciphertexts that are really checked."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from boto3.session import Session
from hypothesis import given, settings
from moto.server import ThreadedMotoServer

from secrets_broker.ledger.encryption.kms import Provider, open_provider
from secrets_broker.ledger.errors import DecryptionError, KmsError
from tests.ledger.encryption.kms.helpers import (
    KEK_ID,
    KEY,
    OTHER_ID,
    assert_round_trip,
    flips,
    kek_ids,
    keys,
    refusal,
)

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient

# moto answers AccessDeniedException where AWS has IncorrectKeyException.
REFUSED = (DecryptionError, KmsError)


@dataclass(frozen=True, slots=True)
class Aws:
    """A KMS with one key, and whoever owns it."""

    endpoint: str
    owner: "KMSClient"
    arn: str

    def open(self, key: str) -> Provider:
        """The provider of a key of this KMS."""
        return open_provider(f"aws-kms:///{key}?region=eu-central-1&endpoint={self.endpoint}")


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    """moto's server, with a key in it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        owner: KMSClient = Session().client("kms", "eu-central-1", endpoint_url=endpoint)
        yield Aws(endpoint, owner, owner.create_key()["KeyMetadata"]["Arn"])
        owner.close()
    server.stop()


@settings(max_examples=20)
@given(keys, kek_ids)
def test_any_key_comes_back(aws: Aws, key: bytes, kek_id: str) -> None:
    """Any 32 bytes come back under their own id."""
    assert_round_trip(aws.open(aws.arn), key, kek_id)


def test_any_changed_byte_is_refused(aws: Aws) -> None:
    """Each byte of the wrap, changed alone, is refused; so is a wrap that was cut, or is none."""
    provider = aws.open(aws.arn)
    wrapped = provider.wrap(KEY, KEK_ID)
    for changed in (*flips(wrapped), wrapped[:-1], b"", bytes(7_000)):
        with refusal(REFUSED, "aws-kms:arn"):
            provider.unwrap(changed, KEK_ID)


def test_another_id_is_refused(aws: Aws) -> None:
    """A wrap opens for the KEK id that it was made for, and for no other."""
    provider = aws.open(aws.arn)
    with refusal(DecryptionError, "does not open .* InvalidCiphertextException"):
        provider.unwrap(provider.wrap(KEY, KEK_ID), OTHER_ID)


def test_another_key_is_refused(aws: Aws) -> None:
    """A wrap opens with the configured key only, even where KMS has the one that made it."""
    other = aws.open(aws.owner.create_key()["KeyMetadata"]["Arn"])
    with refusal(REFUSED, "AccessDeniedException"):
        other.unwrap(aws.open(aws.arn).wrap(KEY, KEK_ID), KEK_ID)


def test_the_id_is_the_arn(aws: Aws) -> None:
    """Whatever name the URL has for the key, the stored id is the ARN that KMS answers."""
    aws.owner.create_alias(AliasName="alias/kek", TargetKeyId=aws.arn)
    for name in (aws.arn, aws.arn.rpartition("/")[2], "alias/kek"):
        assert aws.open(name).id == f"aws-kms:{aws.arn}"


def test_a_moved_alias_does_not_split_id_and_wrap(aws: Aws) -> None:
    """The key that `id` names is the one that wraps, though the alias moves in between."""
    aws.owner.create_alias(AliasName="alias/moving", TargetKeyId=aws.arn)
    provider = aws.open("alias/moving")
    assert provider.id == f"aws-kms:{aws.arn}"
    other = aws.owner.create_key()["KeyMetadata"]["KeyId"]
    aws.owner.update_alias(AliasName="alias/moving", TargetKeyId=other)
    wrapped = provider.wrap(KEY, KEK_ID)
    assert aws.open(aws.arn).unwrap(wrapped, KEK_ID) == KEY


def test_a_wrap_outlives_the_rotation_of_its_key(aws: Aws) -> None:
    """AWS's own rotation of the key material leaves older wraps readable."""
    provider = aws.open(aws.arn)
    wrapped = provider.wrap(KEY, KEK_ID)
    aws.owner.rotate_key_on_demand(KeyId=aws.arn)
    assert provider.unwrap(wrapped, KEK_ID) == KEY


def test_an_unknown_key_is_named(aws: Aws) -> None:
    """A key that is not there: the error names it, AWS's answer and what to check."""
    with refusal(KmsError, "alias/none: NotFoundException.*check the key's id"):
        _ = aws.open("alias/none").id


def test_the_region_follows_from_the_arn(aws: Aws) -> None:
    """An ARN says its region, so the URL need not."""
    provider = open_provider(f"aws-kms:///{aws.arn}?endpoint={aws.endpoint}")
    assert_round_trip(provider)
    provider.close()


def test_only_a_key_of_32_bytes_is_wrapped(aws: Aws) -> None:
    """What is no KEK is refused before anything is sent, and refused when it comes back."""
    provider = aws.open(aws.arn)
    with pytest.raises(ValueError, match="32 bytes"):
        provider.wrap(b"short", KEK_ID)
    context = {"purpose": "secrets-broker/v1/kek", "kek-id": KEK_ID}
    short = aws.owner.encrypt(KeyId=aws.arn, Plaintext=b"short", EncryptionContext=context)
    with refusal(DecryptionError, "not a key of 32 bytes"):
        provider.unwrap(short["CiphertextBlob"], KEK_ID)

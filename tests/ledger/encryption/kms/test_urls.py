"""The URLs of the providers: what they mean, and that no refusal repeats a part of one."""

import pytest

from secrets_broker.ledger.encryption.kms import open_provider
from secrets_broker.ledger.encryption.kms.aws import AwsKms
from secrets_broker.ledger.encryption.kms.hsm import Hsm
from secrets_broker.ledger.encryption.kms.transit import Transit
from secrets_broker.ledger.errors import KmsError, KmsUrlError
from tests.ledger.encryption.kms.helpers import refusal

SECRET = "hunter2-is-a-secret"
HSM = "pkcs11:token=broker;object=kek"
MODULE = "module-path=/usr/lib/softhsm/libsofthsm2.so"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "begins with one of: aws-kms, pkcs11, transit"),
        (SECRET, "begins with one of"),
        (f"{SECRET}:rest", "begins with one of"),
        (f"aws-kms://me:{SECRET}@/alias/kek", "user or password"),
        (f"aws-kms://{SECRET}/alias/kek", "three slashes"),
        ("aws-kms:///", "three slashes"),
        (f"aws-kms:///alias/kek?secret-key={SECRET}", "aws-kms has region, endpoint"),
        (f"aws-kms:///alias/kek?{SECRET}", "aws-kms has region, endpoint"),
        ("aws-kms:///alias/kek?region=", "is empty"),
        (f"aws-kms:///alias/kek?region=a&region={SECRET}", "given twice"),
        (f"aws-kms:///alias/kek#{SECRET}", "fragment"),
        (f"aws-kms:///alias/kek?endpoint=https://u:{SECRET}@kms.example", "user or password"),
        ("aws-kms:///alias/kek?endpoint=http://kms.example", "plain HTTP"),
        ("aws-kms:///alias/kek?endpoint=nonsense", "names no host"),
        (f"{HSM}?{MODULE}&pin-value={SECRET}", "pin-value puts the PIN into the URI"),
        (f"{HSM};pin-value={SECRET}?{MODULE}", "pin-value puts the PIN into the URI"),
        (HSM, "needs .module-path="),
        (f"{HSM}?module-path=libsofthsm2.so", "absolute path"),
        (f"{HSM}?{MODULE}&pin-source=|/bin/{SECRET}", "absolute path"),
        (f"{HSM}?{MODULE}&module-name={SECRET}", "not one of: module-path, pin-source"),
        (f"pkcs11:object=kek?{MODULE}", "names its token"),
        (f"pkcs11:token=broker?{MODULE}", "names its key"),
        (f"{HSM};object={SECRET}?{MODULE}", "object twice"),
        (f"{HSM};type=private?{MODULE}", "secret-key"),
        (f"{HSM};{SECRET}?{MODULE}", "not one of: token, serial, object, id, type"),
        (f"pkcs11://{SECRET}/token=broker?{MODULE}", "neither a host"),
        (f"transit+https://{SECRET}@vault.example/transit/keys/kek", "user or password"),
        (f"transit+https://vault.example/transit/keys/kek?token={SECRET}", "has ca-file"),
        (f"transit+https://vault.example/{SECRET}", "path is <mount>/keys/<name>"),
        ("transit+https://vault.example/transit/keys/..%2f..%2fsys", "path is <mount>"),
        ("transit+https:///transit/keys/kek", "names no host"),
        ("transit+http://vault.example:8200/transit/keys/kek", "plain HTTP"),
        (f"transit+https://vault.example:{SECRET}/transit/keys/kek", "is not a URL"),
        ("transit+https://[vault/transit/keys/kek", "is not a URL"),
    ],
)
def test_a_url_that_cannot_be_read(url: str, words: str) -> None:
    """Each fault is named, in words that hold nothing of the URL, which may hold a secret."""
    with refusal(KmsUrlError, words, SECRET):
        open_provider(url, pin="1234", token="s.token")


@pytest.mark.parametrize(
    ("url", "key", "region", "endpoint"),
    [
        ("aws-kms:///alias/kek", "alias/kek", None, None),
        ("AWS-KMS:///1234abcd?region=eu-west-1", "1234abcd", "eu-west-1", None),
        (
            "aws-kms:///arn:aws-cn:kms:cn-north-1:111122223333:alias/kek",
            "arn:aws-cn:kms:cn-north-1:111122223333:alias/kek",
            "cn-north-1",
            None,
        ),
        (
            "aws-kms:///alias%2Fkek?endpoint=https%3A%2F%2Fkms.example%3A8443",
            "alias/kek",
            None,
            "https://kms.example:8443",
        ),
        ("aws-kms:///k?endpoint=http://[::1]:5000", "k", None, "http://[::1]:5000"),
        ("aws-kms:///k?endpoint=http://localhost:5000", "k", None, "http://localhost:5000"),
    ],
)
def test_an_aws_url(url: str, key: str, region: str | None, endpoint: str | None) -> None:
    """Key, region and endpoint; an ARN brings its region along."""
    provider = open_provider(url)
    assert isinstance(provider, AwsKms)
    assert (provider.key, provider.region, provider.endpoint) == (key, region, endpoint)


def test_a_pkcs11_uri() -> None:
    """The attributes are read as RFC 7512 spells them; the id has one order and no query."""
    url = f"pkcs11:id=%01%ff;object=my%20kek;token=broker?{MODULE}&pin-source=file:/run/pin"
    provider = open_provider(url)
    assert isinstance(provider, Hsm)
    assert provider.id == "pkcs11:token=broker;object=my%20kek;id=%01%FF"
    assert provider.url.octets("id") == b"\x01\xff"
    assert str(provider.url.pin_file) == "/run/pin"


@pytest.mark.parametrize(
    ("url", "provider_id"),
    [
        (
            "transit+https://vault.example/transit/keys/kek?ca-file=/etc/ca.pem",
            "transit+https://vault.example:8200/transit/keys/kek",
        ),
        (
            "transit+http://[::1]:8100/team/a/transit/keys/kek-2026",
            "transit+http://[::1]:8100/team/a/transit/keys/kek-2026",
        ),
    ],
)
def test_a_transit_url(url: str, provider_id: str) -> None:
    """The id is the URL with its port and without its query; a namespace is part of the mount."""
    provider = open_provider(url, token="s.token")
    assert isinstance(provider, Transit)
    assert provider.id == provider_id


@pytest.mark.parametrize("token", [None, "", f"{SECRET}\r\nX-Other: 1", f"{SECRET} ", "schlüssel"])
def test_transit_needs_a_token(token: str | None) -> None:
    """Without a token, or with one that could end its header, nothing is opened."""
    with refusal(KmsError, "set VAULT_TOKEN", SECRET):
        open_provider("transit+https://vault.example/transit/keys/kek", token=token)


def test_no_provider_prints_its_secret() -> None:
    """Neither PIN nor token is in a provider's repr or id."""
    hsm = open_provider(f"{HSM}?{MODULE}", pin=SECRET)
    transit = open_provider("transit+https://vault.example/transit/keys/kek", token=SECRET)
    for provider in (hsm, transit):
        assert SECRET not in repr(provider) + str(provider) + provider.id

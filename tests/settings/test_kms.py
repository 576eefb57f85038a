"""Which KMS the settings name, and where its secrets come from."""

import pytest

from secrets_broker.settings import Settings


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ({}, None),
        ({"SECRETS_KMS": "environment:"}, None),
        ({"SECRETS_KMS": "aws-kms:///alias/kek"}, "aws-kms:///alias/kek"),
    ],
)
def test_the_kms(value: dict[str, str], url: str | None) -> None:
    """Unset and `environment:` both mean the key that SECRETS_KMS_KEY gives."""
    assert Settings(value).kms_url == url


@pytest.mark.parametrize(
    ("value", "urls"),
    [
        ("", ()),
        (" environment: ", ()),
        (
            "aws-kms:///a\n transit+https://v/a,b/keys/c ",
            ("aws-kms:///a", "transit+https://v/a,b/keys/c"),
        ),
    ],
)
def test_previous_ones(value: str, urls: tuple[str, ...]) -> None:
    """Several stand between white space, since a URL may hold a comma."""
    assert Settings({"SECRETS_KMS_PREVIOUS": value}).previous_kms_urls == urls


def test_their_secrets() -> None:
    """PIN and token are settings of their own, absent unless set, and in no repr."""
    assert (Settings({}).kms_pin, Settings({}).vault_token) == (None, None)
    settings = Settings({"SECRETS_KMS_PIN": "824613", "VAULT_TOKEN": "hvs.token"})
    assert (settings.kms_pin, settings.vault_token) == ("824613", "hvs.token")
    assert "824613" not in repr(settings)
    assert "hvs.token" not in repr(settings)

"""KMS providers, which wrap the KEK with a key outside of this service: see docs/kms.md.

Each is a module that is imported only when its URL scheme is used, since its library is an optional
extra of the distribution. A new one is a module here, and a line in `_OPENERS` below.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from secrets_broker.ledger.encryption.kms.provider import Provider
from secrets_broker.ledger.errors import KmsError, KmsUrlError
from secrets_broker.optional_libraries import how_to_install

__all__ = ["KmsError", "KmsUrlError", "Provider", "open_provider"]


def open_provider(url: str, *, pin: str | None = None, token: str | None = None) -> Provider:
    """The provider that a URL names; it does not connect yet.

    `pin` is for a PKCS#11 token whose URL names no file, `token` for Vault or OpenBao. Raises
    KmsUrlError for a malformed URL, KmsError if a library or a secret is missing.
    """
    opener = _OPENERS.get(url.partition(":")[0].lower())
    if opener is None:
        # The URL is not repeated: the text before a colon may be part of a secret.
        raise KmsUrlError(f"the URL of a KMS begins with one of: {', '.join(_OPENERS)}")
    return opener(url, pin, token)


def _aws(url: str, _pin: str | None, _token: str | None) -> Provider:
    with _needs("aws"):
        from secrets_broker.ledger.encryption.kms.aws import open_aws  # noqa: PLC0415 - an extra
    return open_aws(url)


def _pkcs11(url: str, pin: str | None, _token: str | None) -> Provider:
    with _needs("pkcs11"):
        from secrets_broker.ledger.encryption.kms.hsm import open_hsm  # noqa: PLC0415 - an extra
    return open_hsm(url, pin)


def _transit(url: str, _pin: str | None, token: str | None) -> Provider:
    from secrets_broker.ledger.encryption.kms.transit import open_transit  # noqa: PLC0415 - seldom needed

    return open_transit(url, token)


@contextmanager
def _needs(extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        raise KmsError(
            f"this KMS needs the Python module {name}: {how_to_install(extra)}"
        ) from None


_OPENERS: Final[dict[str, Callable[[str, str | None, str | None], Provider]]] = {
    "aws-kms": _aws,
    "pkcs11": _pkcs11,
    "transit+https": _transit,
    "transit+http": _transit,
}

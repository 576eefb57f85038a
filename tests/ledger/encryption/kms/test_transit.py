"""Transit, against a stand-in (see fake_transit): what we send, and how we read what comes back."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings

from secrets_broker.ledger.encryption.kms import open_provider
from secrets_broker.ledger.encryption.kms.transit import Transit
from secrets_broker.ledger.errors import DecryptionError, KmsError
from tests.certificates import self_signed
from tests.ledger.encryption.kms.fake_transit import TOKEN, Vault, errors, running
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

WRAP = b"vault:v1:AAAA"
WRONG = "hvs.of-somebody-else"


@pytest.fixture
def vault() -> Iterator[Vault]:
    """A stand-in of its own for each test."""
    with running(Vault()) as vault:
        yield vault


def transit(vault: Vault, path: str = "transit/keys/kek", token: str = TOKEN) -> Transit:
    """A provider that speaks to the stand-in."""
    provider = open_provider(f"transit+{vault.origin}/{path}", token=token)
    assert isinstance(provider, Transit)
    return provider


@pytest.fixture(scope="module")
def shared() -> Iterator[Vault]:
    """A stand-in that no test changes."""
    with running(Vault()) as vault:
        yield vault


@settings(max_examples=20)
@given(keys, kek_ids)
def test_any_key_comes_back(shared: Vault, key: bytes, kek_id: str) -> None:
    """Any 32 bytes come back under their own id."""
    assert_round_trip(transit(shared), key, kek_id)


def test_any_changed_byte_is_refused(vault: Vault) -> None:
    """Each character of the wrap, changed alone, is refused; so is one cut, or not ASCII."""
    provider = transit(vault)
    wrapped = provider.wrap(KEY, KEK_ID)
    for changed in (
        *flips(wrapped),
        wrapped[:-1],
        b"",
        b"\xff" + wrapped[1:],
        wrapped.replace(b"v1", b"v0"),
    ):
        with refusal(DecryptionError, "transit/keys/kek: .* does not open", TOKEN):
            provider.unwrap(changed, KEK_ID)


@pytest.mark.parametrize("status", [400, 500])
def test_another_id_is_refused(vault: Vault, status: int) -> None:
    """A wrap opens for its own KEK id only, whichever status a version of Vault has for that."""
    vault.refusal_status = status
    provider = transit(vault)
    wrapped = provider.wrap(KEY, KEK_ID)
    with refusal(DecryptionError, f"does not open .* HTTP {status}: cipher: message auth", TOKEN):
        provider.unwrap(wrapped, OTHER_ID)


def test_another_key_is_refused(vault: Vault) -> None:
    """A wrap of another key, under the same name and version, is refused."""
    provider = transit(vault)
    wrapped = provider.wrap(KEY, KEK_ID)
    vault.versions = [AESGCM(os.urandom(32))]
    with refusal(DecryptionError, "does not open", TOKEN):
        provider.unwrap(wrapped, KEK_ID)


def test_a_wrap_outlives_the_rotation_of_its_key(vault: Vault) -> None:
    """After Vault's own rotation old wraps open, and new ones are of the new version."""
    provider = transit(vault)
    old = provider.wrap(KEY, KEK_ID)
    vault.versions.append(AESGCM(os.urandom(32)))
    new = provider.wrap(KEY, KEK_ID)
    assert (old[:9], new[:9]) == (b"vault:v1:", b"vault:v2:")
    assert provider.unwrap(old, KEK_ID) == provider.unwrap(new, KEK_ID) == KEY


def test_a_version_that_is_shut_off_is_no_refusal(vault: Vault) -> None:
    """A wrap of a version that a policy shuts off is still good: the error says what to set."""
    provider = transit(vault)
    wrapped = provider.wrap(KEY, KEK_ID)
    vault.versions.append(AESGCM(os.urandom(32)))
    vault.min_decryption_version = 2
    with refusal(KmsError, r"disallowed by policy \(too old\); .*min_decryption_version", TOKEN):
        provider.unwrap(wrapped, KEK_ID)


def test_a_server_that_does_not_bind_is_refused(vault: Vault) -> None:
    """A Vault that ignores associated_data would let wraps be swapped: nothing is wrapped by it."""
    vault.knows_associated_data = False
    with refusal(KmsError, "ignores associated_data.*Vault 1.13", TOKEN):
        transit(vault).wrap(KEY, KEK_ID)


def test_a_key_that_cannot_bind_is_refused(vault: Vault) -> None:
    """A key type without associated data: Vault's own words, and which type is needed."""
    vault.aead = False
    with refusal(KmsError, "HTTP 400: .*non-AEAD.*aes256-gcm96", TOKEN):
        transit(vault).wrap(KEY, KEK_ID)


def test_a_wrong_token(vault: Vault) -> None:
    """403 names the policy that is needed, and not the token."""
    with refusal(KmsError, "HTTP 403: permission denied; .*VAULT_TOKEN.*update", WRONG):
        transit(vault, token=WRONG).wrap(KEY, KEK_ID)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "transit/keys/none",
            "transit/keys/none: HTTP 400: encryption key not found; check the key's name",
        ),
        ("team/transit/keys/kek", "HTTP 404: no handler.*check the mount"),
    ],
)
def test_what_is_missing_is_named(vault: Vault, path: str, words: str) -> None:
    """A key or mount that is not there: which, Vault's answer, and what to check."""
    with refusal(KmsError, words, TOKEN):
        transit(vault, path).wrap(KEY, KEK_ID)
    with refusal(KmsError, words, TOKEN):
        transit(vault, path).unwrap(WRAP, KEK_ID)


def test_a_sealed_server(vault: Vault) -> None:
    """A sealed server is asked three times, then named as sealed."""
    vault.sealed = True
    with refusal(KmsError, "HTTP 503: Vault is sealed; .*unseal", TOKEN):
        transit(vault).unwrap(WRAP, KEK_ID)
    assert len(vault.requests) == 3


def test_a_rate_limit_passes(vault: Vault) -> None:
    """429 is tried again; what passes in time is no error, what does not is named."""
    wrapped = transit(vault).wrap(KEY, KEK_ID)
    limit = errors(429, 'request path "transit/decrypt/kek": rate limit quota exceeded')
    vault.next_replies = [limit, limit]
    assert transit(vault).unwrap(wrapped, KEK_ID) == KEY
    vault.next_replies = [limit, limit, limit]
    with refusal(KmsError, "HTTP 429: .*quota exceeded; the server limits the rate", TOKEN):
        transit(vault).unwrap(wrapped, KEK_ID)


def test_a_redirect_is_not_followed(vault: Vault) -> None:
    """A standby's redirect is an error: the token goes to no server that was not named."""
    vault.next_replies = [(307, {})]
    with refusal(KmsError, "HTTP 307: no message; this server is a standby", TOKEN):
        transit(vault).wrap(KEY, KEK_ID)
    assert vault.requests == ["/v1/transit/encrypt/kek"]


def test_an_answer_that_repeats_a_secret_is_withheld(vault: Vault) -> None:
    """Words that hold the token, as a debugging proxy's may, are not shown."""
    vault.next_replies = [errors(400, f"bad request: X-Vault-Token: {TOKEN}")]
    with refusal(KmsError, "HTTP 400: .its answer repeats a secret", TOKEN):
        transit(vault).wrap(KEY, KEK_ID)


def test_an_answer_without_an_end(vault: Vault) -> None:
    """What is read is bounded, and it is said that there is more."""
    vault.next_replies = [errors(400, "x" * 70_000)] * 3
    with refusal(KmsError, "the answer is longer than 65536 bytes; check", TOKEN):
        transit(vault).wrap(KEY, KEK_ID)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": None},
        {"data": {"plaintext": 7, "ciphertext": None}},
        {"data": {"plaintext": "not base64!", "ciphertext": "v1:AAAA"}},
    ],
)
def test_what_is_not_vaults_answer(vault: Vault, body: dict[str, object]) -> None:
    """200 with something else, as from another service at this address, is refused."""
    vault.next_replies = [(200, body), (200, body)]
    with refusal(KmsError, "without a usable ciphertext", TOKEN):
        transit(vault).wrap(KEY, KEK_ID)
    with refusal(KmsError, "without a usable plaintext", TOKEN):
        transit(vault).unwrap(WRAP, KEK_ID)


def test_only_a_key_of_32_bytes(vault: Vault) -> None:
    """What is no KEK is neither sent nor taken."""
    with pytest.raises(ValueError, match="32 bytes"):
        transit(vault).wrap(b"short", KEK_ID)
    vault.next_replies = [(200, {"data": {"plaintext": "c2hvcnQ="}})]
    with refusal(DecryptionError, "not a key of 32 bytes", TOKEN):
        transit(vault).unwrap(WRAP, KEK_ID)


def test_a_silent_server_is_given_up(vault: Vault) -> None:
    """A server that never answers is given up after three bounded waits."""
    vault.silent = True
    provider = transit(vault)
    quick = replace(provider, endpoint=replace(provider.endpoint, timeout=0.2))
    with refusal(KmsError, "no answer within 0.2 s; check that this machine reaches", TOKEN):
        quick.wrap(KEY, KEK_ID)
    assert len(vault.requests) == 3
    assert provider.endpoint.timeout == 5


def test_nobody_listens(vault: Vault) -> None:
    """A closed port is named as such."""
    provider = transit(vault)
    with running(Vault()) as gone:
        origin = gone.origin
    closed = open_provider(f"transit+{origin}/transit/keys/kek", token=TOKEN)
    with refusal(KmsError, "ConnectionRefusedError", TOKEN):
        closed.wrap(KEY, KEK_ID)
    provider.close()
    assert_round_trip(provider)


def test_a_certificate_of_an_unknown_authority(tmp_path: Path) -> None:
    """TLS is verified: the token goes to no server of an unknown authority, unless it is named."""
    certificate = self_signed(tmp_path)
    with running(Vault(), certificate) as vault:
        with refusal(KmsError, "CERTIFICATE_VERIFY_FAILED.*certificate", TOKEN):
            transit(vault).wrap(KEY, KEK_ID)
        assert vault.requests == []
        url = f"transit+{vault.origin}/transit/keys/kek?ca-file={certificate}"
        assert_round_trip(open_provider(url, token=TOKEN))
        missing = open_provider(f"{url}.gone", token=TOKEN)
        with refusal(KmsError, "FileNotFoundError", TOKEN):
            missing.wrap(KEY, KEK_ID)

"""PKCS#11, against SoftHSM2: real sessions, a real PIN, real AES-GCM in the token."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from pkcs11 import MechanismFlag

from secrets_broker.ledger.encryption.envelope import NONCE_BYTES
from secrets_broker.ledger.encryption.kms import Provider, open_provider
from secrets_broker.ledger.encryption.kms.hsm import Hsm
from secrets_broker.ledger.encryption.kms.module_lock import hold_module_lock
from secrets_broker.ledger.errors import DecryptionError, KmsError
from tests.ledger.encryption.kms.helpers import (
    KEK_ID,
    KEY,
    OTHER_ID,
    PYTHON,
    assert_round_trip,
    flips,
    kek_ids,
    keys,
    refusal,
)
from tests.ledger.encryption.kms.softhsm import MISSING, MODULE, PIN, SO_PIN, SoftHsm

pytestmark = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")

URL = f"pkcs11:token=broker;object=kek?module-path={MODULE}"

FORKING = """
import os, sys
from secrets_broker.ledger.encryption.kms import open_provider
provider = open_provider(sys.argv[1], pin=sys.argv[2])
key, kek_id = bytes(range(32)), "00" * 16
wrapped = provider.wrap(key, kek_id)
child = os.fork()
unwrapped = provider.unwrap(wrapped, kek_id) == key
again = provider.unwrap(provider.wrap(key, kek_id), kek_id) == key
if child == 0:
    os._exit(0 if unwrapped and again else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(0 if unwrapped and again and status == 0 else 1)
"""

MANY = """
import sys
from secrets_broker.ledger.encryption.kms import open_provider
for number in range(50):
    provider, key = open_provider(sys.argv[1], pin=sys.argv[2]), number.to_bytes(32)
    assert provider.unwrap(provider.wrap(key, "00" * 16), "00" * 16) == key
"""


@pytest.fixture(scope="module")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """A SoftHSM2 with a token and the keys that the tests name."""
    softhsm = SoftHsm(tmp_path_factory.mktemp("softhsm"))
    softhsm.write_configuration()
    softhsm.make_token("broker")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(softhsm.configuration))
        softhsm.make_key("kek")
        softhsm.make_key("other", key_id=b"\x01\xff")
        softhsm.make_key("short", bits=128)
        softhsm.make_key("read-only", uses=MechanismFlag.DECRYPT)
        softhsm.make_key("twin", key_id=b"\x02")
        softhsm.make_key("twin", key_id=b"\x03")
        yield softhsm


def hsm(path: str = "token=broker;object=kek", query: str = "", pin: str | None = PIN) -> Provider:
    """A provider of the test's token."""
    return open_provider(f"pkcs11:{path}?module-path={MODULE}{query}", pin=pin)


@settings(max_examples=25)
@given(keys, kek_ids)
def test_any_key_comes_back(softhsm: SoftHsm, key: bytes, kek_id: str) -> None:
    """Any 32 bytes come back under their own id."""
    assert_round_trip(hsm(), key, kek_id)


def test_another_implementation_opens_a_wrap(softhsm: SoftHsm) -> None:
    """A wrap is nonce, ciphertext and tag of plain AES-GCM, its AAD the label and the KEK's id."""
    token_key = os.urandom(32)
    softhsm.import_key("known", token_key)
    wrapped = hsm("token=broker;object=known").wrap(KEY, KEK_ID)
    aad = b'["secrets-broker/v1/kek","63c8d1e0a03f461b34709bef019f6c6c"]'
    assert AESGCM(token_key).decrypt(wrapped[:12], wrapped[12:], aad) == KEY


def test_any_changed_byte_is_refused(softhsm: SoftHsm) -> None:
    """Each byte of nonce, ciphertext and tag, changed alone, is refused; so is a cut wrap."""
    provider = hsm()
    wrapped = provider.wrap(KEY, KEK_ID)
    for changed in (*flips(wrapped), wrapped[:-1], wrapped + b"\0", b""):
        with refusal(DecryptionError, "pkcs11:token=broker;object=kek: .* does not open", PIN):
            provider.unwrap(changed, KEK_ID)


def test_another_id_is_refused(softhsm: SoftHsm) -> None:
    """A wrap opens for the KEK id that it was made for, and for no other."""
    provider = hsm()
    with refusal(DecryptionError, "does not open", PIN):
        provider.unwrap(provider.wrap(KEY, KEK_ID), OTHER_ID)


def test_another_key_is_refused(softhsm: SoftHsm) -> None:
    """A wrap of another key of the same token is refused."""
    with refusal(DecryptionError, "does not open", PIN):
        hsm("token=broker;object=other").unwrap(hsm().wrap(KEY, KEK_ID), KEK_ID)


def test_no_nonce_is_used_twice(softhsm: SoftHsm) -> None:
    """The same key wrapped a hundred times has a hundred nonces (SP 800-38D, section 8)."""
    provider = hsm()
    assert len({provider.wrap(KEY, KEK_ID)[:NONCE_BYTES] for _ in range(100)}) == 100


def test_a_key_by_its_id(softhsm: SoftHsm) -> None:
    """CKA_ID, which need not be text, names a key, where two have one label too."""
    assert_round_trip(hsm("token=broker;id=%01%ff"))
    assert_round_trip(hsm("token=broker;object=twin;id=%02"))
    with refusal(KmsError, "MultipleObjectsReturned; name the one that is meant", PIN):
        hsm("token=broker;object=twin").wrap(KEY, KEK_ID)


def test_a_token_by_its_serial_number(softhsm: SoftHsm) -> None:
    """A serial number names a token as well as a label does."""
    assert_round_trip(hsm(f"serial={softhsm.serial()};object=kek"))


@pytest.mark.parametrize("pin", ["wrong-pin", SO_PIN, PIN + "0"])
def test_a_wrong_pin(softhsm: SoftHsm, pin: str) -> None:
    """A wrong PIN is named as the cause, once tried, shown nowhere, and spoils nothing."""
    with refusal(KmsError, "PinIncorrect; check the PIN .* locks itself", PIN, pin):
        hsm(pin=pin).wrap(KEY, KEK_ID)
    assert_round_trip(hsm())


@pytest.mark.parametrize("pin", [None, ""])
def test_no_pin(softhsm: SoftHsm, pin: str | None) -> None:
    """Without a PIN the token is not even asked."""
    with refusal(KmsError, "no PIN; name a file by pin-source, or set SECRETS_KMS_PIN"):
        hsm(pin=pin).wrap(KEY, KEK_ID)


def test_the_pin_of_a_file(softhsm: SoftHsm, tmp_path: Path) -> None:
    """pin-source names a file, read anew each time; it goes before SECRETS_KMS_PIN."""
    file = tmp_path / "pin"
    file.write_text(PIN + "\n")
    provider = hsm(query=f"&pin-source=file:{file}", pin="wrong-pin")
    assert_round_trip(provider)
    file.unlink()
    with refusal(KmsError, "pin-source: FileNotFoundError; let the service read", PIN):
        provider.wrap(KEY, KEK_ID)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("token=none;object=kek", "token=none;object=kek: NoSuchToken.*check token="),
        ("token=broker;serial=0;object=kek", "NoSuchToken"),
        ("token=broker;object=none", "token=broker;object=none: NoSuchKey; .*check object="),
        ("token=broker;object=short", "an AES key of 256 bits is needed"),
        ("token=broker;object=read-only", "CKA_ENCRYPT and CKA_DECRYPT"),
    ],
)
def test_what_is_missing_is_named(softhsm: SoftHsm, path: str, words: str) -> None:
    """A token or key that is not there, or does not fit: the error says which and what to do."""
    with refusal(KmsError, words, PIN):
        hsm(path).wrap(KEY, KEK_ID)


def test_two_tokens_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens with one label have to be told apart by serial number; none is taken by chance."""
    softhsm = SoftHsm(tmp_path)
    softhsm.write_configuration()
    softhsm.make_token("broker")
    softhsm.make_token("broker")
    monkeypatch.setenv("SOFTHSM2_CONF", str(softhsm.configuration))
    with refusal(KmsError, "MultipleTokensReturned: .*by its serial", PIN):
        hsm().wrap(KEY, KEK_ID)


@pytest.mark.parametrize("module", ["/nonexistent/module.so", "/etc/passwd"])
def test_a_module_that_is_none(softhsm: SoftHsm, module: str) -> None:
    """A library that cannot be loaded: the loader's own words, and what to check."""
    provider = open_provider(f"pkcs11:token=broker;object=kek?module-path={module}", pin=PIN)
    with refusal(KmsError, f"Error: .*{module}.*; check module-path", PIN):
        provider.wrap(KEY, KEK_ID)


def test_what_nobody_foresaw_is_ours_too(softhsm: SoftHsm) -> None:
    """Any other error becomes a KmsError with its type and none of its words."""
    provider = hsm()
    assert isinstance(provider, Hsm)
    broken = replace(provider, pin=824_613)  # type: ignore[arg-type]
    with refusal(KmsError, "unexpected builtins.AttributeError", PIN):
        broken.wrap(KEY, KEK_ID)


def test_only_a_key_of_32_bytes_is_wrapped(softhsm: SoftHsm) -> None:
    """What is no KEK does not reach the token."""
    with pytest.raises(ValueError, match="32 bytes"):
        hsm().wrap(b"short", KEK_ID)


def test_many_threads(softhsm: SoftHsm) -> None:
    """Threads of several providers on one token wait for each other."""
    providers = [hsm(), hsm("token=broker;object=other")]

    def work(number: int) -> bool:
        provider, key = providers[number % 2], number.to_bytes(32)
        return provider.unwrap(provider.wrap(key, KEK_ID), KEK_ID) == key

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))


def test_many_processes(softhsm: SoftHsm) -> None:
    """Workers that all start at once find the token, which SoftHSM alone does not manage."""
    command = [PYTHON, "-W", "error", "-c", MANY, URL, PIN]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [worker.communicate()[1] for worker in workers] == ["", "", ""]


def test_after_a_fork(softhsm: SoftHsm) -> None:
    """A provider used before a fork works in parent and child after it, at the same time."""
    command = [PYTHON, "-W", "error", "-c", FORKING, URL, PIN]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_that_is_held_is_given_up(softhsm: SoftHsm) -> None:
    """Whoever keeps the module's lock cannot stop a start for ever."""
    module = Path(str(MODULE))
    with hold_module_lock(module), pytest.raises(TimeoutError), hold_module_lock(module, 0.05):
        pass
    with hold_module_lock(module):
        pass


def test_closing_keeps_it_usable(softhsm: SoftHsm) -> None:
    """Nothing is held open between calls, so there is nothing that close could end."""
    provider = hsm()
    provider.close()
    assert_round_trip(provider)

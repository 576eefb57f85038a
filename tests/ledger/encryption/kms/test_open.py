"""Opening a provider: what is imported, and what is said where an extra is missing."""

import subprocess

import pytest

from tests.ledger.encryption.kms.helpers import PYTHON

HSM = "pkcs11:token=broker;object=kek?module-path=/usr/lib/libmodule.so"
TRANSIT = "transit+https://vault.example/transit/keys/kek"


def run(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    command = [PYTHON, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [("aws-kms:///alias/kek", "boto3", "boto3"), (HSM, "pkcs11", "python-pkcs11")],
)
def test_a_missing_extra_is_named(url: str, module: str, package: str) -> None:
    """Without its library a provider says what pip installs, and nothing else breaks."""
    # None in sys.modules is how Python itself marks a module that cannot be imported.
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from secrets_broker.ledger.encryption.kms import KmsError, open_provider\n"
        f"open_provider({TRANSIT!r}, token='t')\n"
        f"try: open_provider({url!r})\n"
        "except KmsError as error: print(error, error.__cause__)\n"
    )
    text = f"this KMS needs the Python module {module}: {PYTHON} -m pip install '{package}>="
    said = run(code).strip()
    assert said.startswith(text)
    assert said.endswith("' None")


@pytest.mark.parametrize(
    ("url", "loaded"),
    [("aws-kms:///alias/kek", "boto3"), (HSM, "pkcs11"), (TRANSIT, "")],
)
def test_only_what_is_asked_for_is_imported(url: str, loaded: str) -> None:
    """Each provider loads its own library, when it is opened, and no other's."""
    code = (
        "import sys\n"
        "from secrets_broker.ledger.encryption.kms import open_provider\n"
        "def found(): return ' '.join(m for m in ('boto3', 'pkcs11') if m in sys.modules)\n"
        f"before = found(); open_provider({url!r}, pin='1', token='t'); print([before, found()])\n"
    )
    assert run(code).strip() == str(["", loaded])

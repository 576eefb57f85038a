"""What TLS is made of: files that fit together, or an error that names the setting."""

import os
import ssl
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from secrets_broker.http.auth.client_certificate import read
from secrets_broker.ledger.access.grant_commands import grantee_problem
from secrets_broker.settings import Settings, SettingsError
from secrets_broker.tls import server_context
from secrets_broker.tools.serve import IN_THE_CLEAR, server_command
from tests.conftest import Database
from tests.http.authority import SERVER, Authority, der
from tests.repository import ROOT
from tests.tools.command_line import run, settings


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Settings that fit together."""
    authority = Authority(tmp_path)
    own = str(authority.issue("server", usage=SERVER))
    return {
        "TLS_CERT_FILE": own,
        "TLS_KEY_FILE": own,
        "TLS_CLIENT_CA_FILE": str(authority.file),
        "TLS_CLIENT_CERT": "required",
    }


def made(values: dict[str, str]) -> ssl.SSLContext | None:
    """The context of these settings."""
    tls = Settings(values).tls
    return server_context(tls) if tls else None


def test_without_settings_there_is_none_and_with_them_it_is_strict(files: dict[str, str]) -> None:
    """A client's certificate is demanded as soon as there is an authority, unless said otherwise.

    Every suite has AEAD and forward secrecy (RFC 9325, section 4.2).
    """
    assert made({}) is None
    full, default = made(files), made({**files, "TLS_CLIENT_CERT": ""})
    optional = made({**files, "TLS_CLIENT_CERT": "Optional"})
    plain = made({name: files[name] for name in ("TLS_CERT_FILE", "TLS_KEY_FILE")})
    contexts = [context for context in (full, default, optional, plain) if context]
    assert [context.verify_mode for context in contexts] == [
        *(ssl.CERT_REQUIRED, ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL, ssl.CERT_NONE)
    ]
    for context in contexts:
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        for suite in context.get_ciphers():
            assert suite["aead"]
            assert suite["protocol"] == "TLSv1.3" or suite["kea"] == "kx-ecdhe"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"TLS_CERT_FILE": ""}, "TLS_KEY_FILE is set, and TLS_CERT_FILE is not"),
        ({"TLS_KEY_FILE": ""}, "TLS_CERT_FILE is set, and TLS_KEY_FILE is not"),
        ({"TLS_CERT_FILE": "", "TLS_KEY_FILE": ""}, "TLS_CLIENT_CA_FILE is set, and TLS_CERT_FILE"),
        ({"TLS_CLIENT_CA_FILE": ""}, "TLS_CLIENT_CERT is set, and TLS_CLIENT_CA_FILE is not"),
        ({"TLS_CLIENT_CERT": "maybe"}, "TLS_CLIENT_CERT must be required or optional"),
        ({"TLS_CERT_FILE": "gone.pem"}, "TLS_CERT_FILE: gone.pem cannot be read"),
        ({"TLS_KEY_FILE": "/"}, "TLS_KEY_FILE: / cannot be read"),
        ({"TLS_CLIENT_CA_FILE": "gone.pem"}, "TLS_CLIENT_CA_FILE: gone.pem cannot be read"),
    ],
)
def test_settings_that_do_not_fit_together(
    files: dict[str, str], changed: dict[str, str], message: str
) -> None:
    """Nobody who asked for TLS, or for certificates, is served without."""
    with pytest.raises(SettingsError) as caught:
        made({**files, **changed})
    assert message in str(caught.value)


def test_files_that_do_not_fit_together(files: dict[str, str], tmp_path: Path) -> None:
    """Another's key, a key with a password, no PEM, and an authority that is none."""
    other = str(Authority(tmp_path).issue("other", usage=SERVER))
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("-----BEGIN NOTHING-----\n")
    locked = tmp_path / "locked.pem"
    key = load_pem_private_key(Path(files["TLS_KEY_FILE"]).read_bytes(), None)
    encryption = BestAvailableEncryption(b"secret-word")
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    for changed, message in (
        ({"TLS_KEY_FILE": other}, "TLS_KEY_FILE is not the private key of the certificate"),
        ({"TLS_KEY_FILE": str(locked)}, "the key without a password"),
        ({"TLS_CERT_FILE": str(rubbish)}, "must be a certificate and its private key"),
        ({"TLS_CLIENT_CA_FILE": str(rubbish)}, "TLS_CLIENT_CA_FILE must hold certificates in PEM"),
        ({"TLS_CLIENT_CA_FILE": other}, "holds no certificate of an authority"),
    ):
        with pytest.raises(SettingsError, match="TLS_") as caught:
            made({**files, **changed})
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"TLS_CERT_FILE": ""}, "TLS_KEY_FILE is set, and TLS_CERT_FILE is not"),
        ({"TLS_CLIENT_CA_FILE": "gone.pem"}, "TLS_CLIENT_CA_FILE: gone.pem cannot be read"),
        ({"TRUSTED_PROXIES": "a-name"}, "TRUSTED_PROXIES: entry 1 is no address"),
    ],
)
def test_serve_refuses_them_before_it_listens(
    database: Database,
    tmp_path: Path,
    files: dict[str, str],
    changed: dict[str, str],
    message: str,
) -> None:
    """One line that says which, and the exit status is 1."""
    done = run("serve", cwd=tmp_path, env={**settings(database), **files, **changed})
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_certificate_names_nobody(tmp_path: Path) -> None:
    """However it is broken: it has a fingerprint, and no name."""
    whole = der(Authority(tmp_path).issue("whole", lasts=timedelta(hours=2)))
    assert read(whole).name == "whole"
    for broken in (b"", whole[:-1], whole[:40], whole + b"x", bytes(len(whole))):
        assert read(broken).name is None
    for place in range(len(whole)):
        for byte in (0x00, 0x0C, 0x30, 0x86, 0xFF):
            # A name that it still has is one that may stand in the record.
            name = read(whole[:place] + bytes([byte]) + whole[place + 1 :]).name
            assert name is None or grantee_problem(name) is None


def test_what_is_never_served_over_tls_is_not(files: dict[str, str], tmp_path: Path) -> None:
    """`dev` and `witness serve` pass gunicorn options that win over the settings."""
    found = {}
    for name, options in (("serve", ()), ("dev", IN_THE_CLEAR)):
        done = subprocess.run(
            [*server_command("127.0.0.1", 1, 1, *options), "--print-config"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **files},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,  # it loads the application too, which has no settings here
        )
        lines = (line.partition("=") for line in done.stdout.splitlines())
        read_as = {option.strip(): value.strip() for option, _, value in lines}
        found[name] = read_as["certfile"], read_as["keyfile"]
    assert found == {"serve": (files["TLS_CERT_FILE"],) * 2, "dev": ("", "")}

"""`secrets-broker keygen`: fresh settings.

The signing key is in the form of a C2SP signed note's Ed25519 key, as Go's note package and
the log tools read it: `PRIVATE+KEY+<name>+<id>+<base64(0x01 || seed)>`, and for the verifier
`<name>+<id>+<base64(0x01 || public key)>`, id = SHA-256(name || 0x0A || 0x01 || public key)[:4].
"""

import secrets
from base64 import b64encode
from hashlib import sha256
from typing import Final

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secrets_broker.tools.common import data_dir_option

_ED25519: Final = b"\x01"


def new_key() -> str:
    """256 random bits in base64."""
    return b64encode(secrets.token_bytes(32)).decode("ascii")


def signing_keys(name: str, seed: bytes) -> tuple[str, str]:
    """The signer's and the verifier's key of a name, from 32 random bytes."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    key_id = sha256(name.encode() + b"\n" + _ED25519 + public).hexdigest()[:8]
    private_text = b64encode(_ED25519 + seed).decode("ascii")
    public_text = b64encode(_ED25519 + public).decode("ascii")
    return f"PRIVATE+KEY+{name}+{key_id}+{private_text}", f"{name}+{key_id}+{public_text}"


def fresh_settings() -> dict[str, str]:
    """Every setting that is a key, and the log's origin."""
    origin = f"secrets-broker.invalid/{secrets.token_hex(8)}"
    signer, verifier = signing_keys(origin, secrets.token_bytes(32))
    return {
        "SECRETS_KMS_KEY": new_key(),
        "SECRETS_KMS_KEY_PREVIOUS": "",
        "SECRETS_KMS": "",
        "INTERNAL_KEY": new_key(),
        "AUDITOR_KEY": new_key(),
        "LEDGER_ORIGIN": origin,
        "LEDGER_SIGNING_KEY": signer,
        "LEDGER_VERIFIER_KEY": verifier,
    }


def env_lines(values: dict[str, str]) -> str:
    """Plain NAME=value lines."""
    return "".join(f"{name}={value}\n" for name, value in values.items())


@click.command()
@data_dir_option
def keygen(data_dir: object) -> None:
    """Print fresh settings lines for a .env file; nothing is stored."""
    click.echo(env_lines(fresh_settings()), nl=False)

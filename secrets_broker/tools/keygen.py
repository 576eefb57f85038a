"""`secrets-broker keygen`: fresh settings."""

import re
import secrets
from base64 import b64encode
from collections.abc import Callable, Set
from typing import Final

import click

from secrets_broker.ledger.transparency_log.note import ED25519, SigningKey, is_name
from secrets_broker.settings import DECLARED, OF_THE_LOG, Fresh
from secrets_broker.tools.shared.command_line import data_dir_option
from secrets_broker.tools.watch.signature import new_webhook_key

# What needs no quotes and means itself in a shell, an env file of systemd, Docker or compose, and a
# URL. Not "~": a shell takes it for a home after a colon.
_PLAIN: Final = re.compile(r"[A-Za-z0-9._:/@%+=,-]*")


def is_plain(text: str) -> bool:
    """Whether a value of an env file reads the same everywhere, without quotes."""
    return _PLAIN.fullmatch(text) is not None


def new_key() -> str:
    """256 random bits in base64."""
    return b64encode(secrets.token_bytes(32)).decode("ascii")


def signing_key(name: str, kind: int = ED25519) -> SigningKey:
    """A fresh Ed25519 key: 32 random bytes and a name (RFC 8032, section 5.1.5)."""
    return SigningKey(name, secrets.token_bytes(32), kind)


def fresh_name() -> str:
    """A name that nobody else has, and that resolves nowhere (RFC 2606)."""
    return f"secrets-broker.invalid/{secrets.token_hex(8)}"


def fresh_settings(origin: str | None = None) -> dict[str, str]:
    """Every setting that is a key, and the log's origin: a random one where none is given."""
    signer = signing_key(origin or fresh_name())
    makers: dict[Fresh, Callable[[], str]] = {
        Fresh.EMPTY: str,
        Fresh.KEY: new_key,
        Fresh.WEBHOOK_KEY: new_webhook_key,
        Fresh.LOG_NAME: lambda: signer.name,
        Fresh.LOG_SIGNING_KEY: signer.private_text,
        Fresh.LOG_VERIFIER_KEY: lambda: str(signer.verifier),
    }
    return {setting.name: makers[setting.fresh]() for setting in DECLARED if setting.fresh}


def fresh_beside(names: Set[str]) -> dict[str, str]:
    """Those that a file with these names lacks; half of what is one key would fit nothing."""
    of_the_log = {setting.name for setting in DECLARED if setting.fresh in OF_THE_LOG}
    there = names | of_the_log if names & of_the_log else names
    return {name: value for name, value in fresh_settings().items() if name not in there}


def env_lines(values: dict[str, str]) -> str:
    """Plain NAME=value lines: whatever reads such files, quotes or not, reads the same values."""
    return "".join(f"{name}={value}\n" for name, value in values.items())


def check_name(what: str, name: str) -> None:
    """Raise click.UsageError where it is no key's name, or one that would have to be quoted."""
    if not is_name(name) or not is_plain(name):
        raise click.UsageError(
            f"{what} must not be empty, nor have a plus or anything but ASCII letters, digits "
            "and . _ : / @ % = , -"
        )


@click.command()
@data_dir_option
@click.option(
    "--origin",
    help="The log's name, for a new signing key of the same name; else a random one.",
)
def keygen(data_dir: object, origin: str | None) -> None:
    """Print fresh settings lines for a .env file; nothing is stored.

    LEDGER_VERIFIER_KEY is what auditors verify checkpoints with: it is no secret, hand it out.
    """
    if origin is not None:
        check_name("--origin", origin)
    click.echo(env_lines(fresh_settings(origin)), nl=False)

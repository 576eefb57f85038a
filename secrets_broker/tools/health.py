"""`secrets-broker health`: whether a service is fit to be asked; for health checks."""

from http import HTTPStatus
from typing import Final

import click
import msgspec

from secrets_broker.outbound.client import UnreachableError
from secrets_broker.tools.shared.command_line import data_dir_option
from secrets_broker.tools.shared.remote import ClientTls, Remote, RemoteError, tls_options, why
from secrets_broker.tools.shared.status import NotAsked, NotSo

_SECONDS: Final = 5.0
"""More than a probe of the ledger takes, less than a container's own limit for a check."""
_LARGEST: Final = 4_096
"""In bytes: no answer of ours is longer."""


class _Health(msgspec.Struct):
    status: str


@click.command()
@data_dir_option
@click.option(
    "--url", default="http://127.0.0.1:3003", show_default=True, help="Where the service is."
)
@tls_options
@click.option("--live", is_flag=True, help="Ask only whether its process answers.")
def health(data_dir: object, url: str, tls: ClientTls, live: bool) -> None:
    """Ask a service whether it is ready: the ledger can be written, the KEK is at hand.

    It needs no setting and no key. The exit status is 0 where it is ready, 1 where it says that it
    is not, and 2 where nobody answers; the answer is printed.
    """
    del data_dir  # every command takes it
    remote = Remote.parse(url, None, tls, _SECONDS)
    wanted = "live" if live else "ready"
    path = f"/health/{wanted}"
    try:
        with remote.open() as connections:
            code, said = connections.once(path, _LARGEST)
        if code != 200:
            text = said.decode(errors="backslashreplace")
            # 503 is what it says of itself; every other refusal is another server's, or a proxy's.
            answered = NotSo if code == HTTPStatus.SERVICE_UNAVAILABLE else NotAsked
            raise answered(f"{path} is {code}: {text!r}")
        status = msgspec.json.decode(said, type=_Health).status
    except RemoteError as error:
        raise NotAsked(f"{url} is no secrets-broker: {error}") from None
    except UnreachableError as error:
        raise NotAsked(f"{url} does not answer: {why(error)}") from None
    except msgspec.DecodeError as error:
        raise NotAsked(f"{url} does not answer: {type(error).__name__}") from None
    if status != wanted:
        raise NotAsked(f"{url} is no secrets-broker: it says {status!r}")
    click.echo(status)

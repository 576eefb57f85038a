"""`secrets-broker health`: whether a service is fit to be asked; for health checks."""

import http.client
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import click
import msgspec

from secrets_broker.tools.common import data_dir_option
from secrets_broker.tools.status import NotAsked, NotSo

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
@click.option("--live", is_flag=True, help="Ask only whether its process answers.")
def health(data_dir: object, url: str, live: bool) -> None:
    """Ask a service whether it is ready: the ledger can be written, the KEK is at hand.

    It needs no setting and no key. The exit status is 0 where it is ready, 1 where it says that it
    is not, and 2 where nobody answers; the answer is printed.
    """
    del data_dir  # every command takes it
    if urlsplit(url).scheme not in {"http", "https"}:
        raise click.UsageError("--url must begin with http:// or https://")
    wanted = "live" if live else "ready"
    path = f"/health/{wanted}"
    try:
        status = msgspec.json.decode(_ask(url.rstrip("/") + path), type=_Health).status
    except urllib.error.HTTPError as error:
        said = error.read(_LARGEST).decode(errors="backslashreplace")
        # 503 is what it says of itself; every other refusal is another server's, or a proxy's.
        answered = NotSo if error.code == HTTPStatus.SERVICE_UNAVAILABLE else NotAsked
        raise answered(f"{path} is {error.code}: {said!r}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NotAsked(f"{url} does not answer: {error}") from None
    if status != wanted:
        raise NotAsked(f"{url} is no secrets-broker: it says {status!r}")
    click.echo(status)


def _ask(url: str) -> bytes:
    # No proxy of the environment: a service's health is asked of the service.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=_SECONDS) as answer:
        said: bytes = answer.read(_LARGEST)
    return said

"""The options of `watch`, and what they come to."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from secrets_broker.ledger.errors import FieldError, InvalidCommandError
from secrets_broker.outbound.address import HttpUrlError
from secrets_broker.projections.conditions import Thresholds
from secrets_broker.projections.parameters.duration import parse_duration
from secrets_broker.settings import MissingSettingError, Settings
from secrets_broker.tools.watch.signature import WebhookKey
from secrets_broker.tools.watch.sink import Sink, StandardOutput
from secrets_broker.tools.watch.syslog import FACILITIES, Syslog, SyslogAddress, SyslogAddressError
from secrets_broker.tools.watch.webhook import Webhook

F = TypeVar("F", bound=Callable[..., Any])

_COUNTS: Final = {
    "failure_percent": "failure_rate: told where more of the lookups than so many percent fail,",
    "failure_lookups": "of at least so many,",
    "spike_factor": "read_spike: told where there are more than so many times the usual reads,",
    "spike_reads": "and at least so many,",
    "bulk_hosts": "bulk_reads: told where an actor reads more distinct hosts than this,",
}
_TIMES: Final = {
    "failure_seconds": ("--failure-window", "5m", "within so long."),
    "spike_seconds": ("--spike-window", "10m", "within so long;"),
    "baseline_seconds": ("--baseline", "1d", "the usual is the mean over so long."),
    "bulk_seconds": ("--bulk-window", "1h", "within so long."),
    "checkpoint_seconds": ("--checkpoint-age", "10m", "checkpoint_age: told where it is older."),
    "cooldown_seconds": (
        "--cool-down",
        "1h",
        "A lasting condition is told again after so long.",
    ),
}
_ORDER: Final = (
    *("failure_percent", "failure_lookups", "failure_seconds"),
    *("spike_factor", "spike_reads", "spike_seconds", "baseline_seconds"),
    *("bulk_hosts", "bulk_seconds", "checkpoint_seconds", "cooldown_seconds"),
)


def threshold_options(command: F) -> F:
    """Add an option for each threshold; the command gets them as keywords for `thresholds`."""
    defaults = Thresholds()
    for name in reversed(_ORDER):
        if name in _COUNTS:
            option = click.option(
                f"--{name.replace('_', '-')}",
                name,
                type=int,
                default=getattr(defaults, name),
                show_default=True,
                help=_COUNTS[name],
            )
        else:
            flag, default, text = _TIMES[name]
            option = click.option(flag, name, default=default, show_default=True, help=text)
        command = option(command)
    return command


def thresholds(given: Mapping[str, Any]) -> Thresholds:
    """What they come to; raises InvalidCommandError, which names the option."""
    fields = {name: given[name] for name in _COUNTS}
    for name, (flag, _, _) in _TIMES.items():
        fields[name] = int(parse_duration(flag, given[name]).total_seconds())
    try:
        return msgspec.convert(fields, Thresholds)
    except msgspec.ValidationError as error:
        raise InvalidCommandError(FieldError("", str(error))) from None


def seconds(flag: str, text: str) -> float:
    """A duration, or 0; raises InvalidCommandError, which names the option."""
    return 0.0 if text == "0" else parse_duration(flag, text).total_seconds()


def sink_options(command: F) -> F:
    """Add the options that say whom to tell; the command gets them as keywords for `sink`."""
    options = (
        click.option(
            "--webhook",
            metavar="URL",
            help="POST each to it, signed with WATCH_WEBHOOK_KEY [WATCH_WEBHOOK].",
        ),
        click.option(
            "--webhook-ca",
            "ca_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Certificates, as PEM, that the webhook's is checked with [the system's].",
        ),
        click.option("--insecure-http", is_flag=True, help="Allow http:// beyond this machine."),
        click.option(
            "--syslog",
            metavar="ADDRESS",
            help="Send each to syslog: /dev/log, HOST:PORT or udp://, tcp://HOST:PORT.",
        ),
        click.option(
            "--facility",
            type=click.Choice(sorted(FACILITIES)),
            default="authpriv",
            show_default=True,
            help="Of syslog.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def sink(
    settings: Settings,
    webhook: str | None,
    ca_file: Path | None,
    syslog: str | None,
    facility: str,
    *,
    insecure_http: bool,
) -> Sink:
    """Whom to tell; raises SettingsError, or click.UsageError."""
    if syslog is not None and webhook is not None:
        raise click.UsageError("give --webhook or --syslog: a watch tells one of them")
    try:
        if syslog is not None:
            return Syslog(SyslogAddress.parse(syslog), facility)
        url = webhook or settings.watch_webhook
        if url is None:
            return StandardOutput()
        keys = [WebhookKey.parse(text) for text in settings.watch_webhook_keys]
        if not keys:
            raise MissingSettingError("WATCH_WEBHOOK_KEY")
        return Webhook.parse(url, keys, ca_file, insecure=insecure_http)
    except SyslogAddressError as error:
        raise click.UsageError(f"--syslog {error}") from None
    except HttpUrlError as error:
        raise click.UsageError(str(error)) from None

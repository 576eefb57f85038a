"""Rights as options of a command, or as a file of rules."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from secrets_broker.ledger.access.rights import OPERATIONS, Rights
from secrets_broker.ledger.commands import parse
from secrets_broker.ledger.errors import FieldError, InvalidCommandError
from secrets_broker.projections.parameters.times import parse_later

F = TypeVar("F", bound=Callable[..., Any])

_LIMIT: Final = re.compile(r"([0-9]{1,7})/([0-9]{0,4})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

_OPTIONS: Final = (
    click.option(
        "--allow",
        help=f"Operations, separated by commas: {', '.join(OPERATIONS)}.",
    ),
    click.option("--host", "hosts", multiple=True, help="Hosts; * is any run of characters."),
    click.option("--purpose", "purposes", multiple=True, help="Purposes; the same."),
    click.option("--network", "networks", multiple=True, help="Only from there: a CIDR."),
    click.option("--require-reason", is_flag=True, help="Only with an X-Access-Reason."),
    click.option(
        "--rules",
        "rules_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Instead of these five: a JSON list of rules, of which the first that fits decides.",
    ),
    click.option("--expires", help="When all of it ends: in 90d, or at a time with an offset."),
    click.option("--rate", help="At most so many requests: 600/m, 10000/h, 50/10s."),
    click.option("--host-limit", help="At most so many distinct hosts read: 100/h."),
)


@dataclass(frozen=True, slots=True)
class RightsOptions:
    """What a user gave."""

    allow: str | None
    hosts: tuple[str, ...]
    purposes: tuple[str, ...]
    networks: tuple[str, ...]
    require_reason: bool
    rules_file: Path | None
    expires: str | None
    rate: str | None
    host_limit: str | None

    @property
    def given(self) -> bool:
        """Whether there was any option at all."""
        return any(getattr(self, field.name) for field in fields(self))

    def rights(self) -> Rights:
        """The rights; raises InvalidCommandError, or click.UsageError."""
        given = {
            "rules": self._rules(),
            "expires_at": parse_later("expires", self.expires) if self.expires else None,
            "requests": _limit("rate", self.rate),
            "hosts": _limit("host-limit", self.host_limit),
        }
        return parse(Rights, given)

    def _rules(self) -> Any:
        given = (self.allow, self.hosts, self.purposes, self.networks, self.require_reason)
        if self.rules_file is not None:
            if any(given):
                raise click.UsageError("--rules stands for itself: put the rest into the file")
            return read_json(self.rules_file)
        if not self.allow:
            raise click.UsageError("--allow is required, or --rules; see --help")
        return [
            {
                "allow": [word.strip() for word in self.allow.split(",")],
                "hosts": self.hosts,
                "purposes": self.purposes,
                "networks": self.networks,
                "reason": self.require_reason,
            }
        ]


def rights_options(command: F) -> F:
    """Add the options; the command gets them as keywords for RightsOptions."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _limit(field: str, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = _LIMIT.fullmatch(text)
    if match is None:
        rule = "must be a number, a slash and a time, as 600/m, 10000/h or 50/10s"
        raise InvalidCommandError(FieldError(field, rule))
    return int(match[1]), int(match[2] or 1) * _SECONDS[match[3]]


def read_json(path: Path) -> Any:
    """What a file of rules or grants holds; raises InvalidCommandError."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        raise InvalidCommandError(FieldError("", f"{path} cannot be read as JSON")) from None

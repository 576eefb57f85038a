"""What `replay` prints: a state or the differences of two, as a table, one JSON list, or CSV."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol

import click
import msgspec

from secrets_broker.ledger.content import SEALED
from secrets_broker.projections.queries.replay import Credential
from secrets_broker.projections.queries.replay_diff import StateDifference
from secrets_broker.projections.unreadable import Unreadable
from secrets_broker.tools.replay.reveal import Revealed
from secrets_broker.tools.shared.command_line import say
from secrets_broker.tools.shared.output import Form, Output
from secrets_broker.tools.shared.status import NotAsked

_STATE: Final = (
    *("host", "purpose", "version", "username", "domain"),
    *("updated_at", "updated_by", "erased"),
)
_REVEALED: Final = (
    *("host", "purpose", "version", "username", "domain", "password", "secret_data"),
    *("updated_at", "erased"),
)
_DIFFERENCES: Final = (
    *("host", "purpose", "kind", "version_before", "version_after"),
    *("at", "actor", "reason", "columns"),
)


class _Unprinted(Credential, frozen=True, kw_only=True):
    def __repr__(self) -> str:
        """Show nothing: a repr ends in logs and tracebacks."""
        return "RevealedCredential(…)"


# It is made to be printed on standard output, and nowhere else.
_RevealedCredential: Final = msgspec.defstruct(
    "RevealedCredential",
    [*((name, Any) for name in SEALED), ("read", int | None)],
    bases=(_Unprinted,),
    module=__name__,
    frozen=True,
    kw_only=True,
)


def revealed_line(revealed: Revealed) -> msgspec.Struct:
    """A credential as it was, with its secrets, and the position of the event that says so."""
    return _RevealedCredential(
        **msgspec.structs.asdict(revealed.credential),
        **{name: getattr(revealed.content, name, None) for name in SEALED},
        read=revealed.read,
    )


class Lines(Protocol):
    """Takes lines as they come."""

    def write(self, lines: Iterable[Any]) -> None:
        """Write these now."""


class _JsonList:
    """One JSON list, written while its items come; without its end where something failed."""

    def __init__(self) -> None:
        self._before = "[\n"

    def write(self, lines: Iterable[msgspec.Struct]) -> None:
        """Write these now."""
        text = ""
        for line in lines:
            # All ASCII: what is in a name is escaped here too.
            text += self._before + json.dumps(msgspec.to_builtins(line))
            self._before = ",\n"
        click.echo(text, nl=False)

    def close(self) -> None:
        """Write the end."""
        click.echo("[]" if self._before == "[\n" else "\n]")


def state_lines(form: Form) -> AbstractContextManager[Lines]:
    """For credentials as they were."""
    return _lines(form, Credential, _STATE, "no credentials")


def revealed_lines(form: Form) -> AbstractContextManager[Lines]:
    """For credentials with their secrets."""
    return _lines(form, _RevealedCredential, _REVEALED, "no credentials")


def difference_lines(form: Form) -> AbstractContextManager[Lines]:
    """For differences."""
    return _lines(form, StateDifference, _DIFFERENCES, "no differences")


def say_unreadable(unreadable: Sequence[Unreadable]) -> None:
    """Name what does not open."""
    for one in unreadable:
        # Names are others' text: repr, so that none can steer a terminal.
        say(f"unreadable: {one.host!r} {one.purpose!r} (event {one.position}): {one.why}")


@contextmanager
def _lines(
    form: Form, kind: type[msgspec.Struct], table: Sequence[str], empty: str
) -> Iterator[Lines]:
    try:
        if form is Form.JSON:
            items = _JsonList()
            yield items
            items.close()
        else:
            with Output(form, kind, table, empty) as output:
                yield output
    except BrokenPipeError:
        raise  # the reader has seen enough; click ends quietly
    except OSError as error:
        # What still waits cannot be written either; at its end Python would try, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise NotAsked(f"the output could not be written: {error.strerror}") from None

"""What `erase` prints: what would be destroyed, and what was."""

from collections.abc import Sequence

import click
import msgspec

from secrets_broker.ledger.operations.erasure import Erasable, Erased
from secrets_broker.tools.erase.apply_again import summary


def totals(found: Sequence[Erasable]) -> str:
    """How much would be destroyed, in words."""
    return (
        f"{len(found)} names, {sum(f.versions for f in found)} versions, "
        f"{sum(f.data_keys for f in found)} data keys, {sum(f.bodies for f in found)} bodies"
    )


def line(found: Erasable) -> str:
    """A name, and how much of it would be destroyed."""
    # Names are others' text: repr, so that none can steer a terminal.
    return (
        f"{found.host!r} {found.purpose!r}: {found.versions} versions, "
        f"{found.data_keys} data keys, {found.bodies} bodies"
    )


def show(found: Sequence[Erasable], as_json: bool) -> None:
    """Print what would be destroyed."""
    if as_json:
        click.echo(msgspec.json.encode({"dry_run": True, "would_erase": found}))
    else:
        click.echo("\n".join([*map(line, found), f"would be erased: {totals(found)}"]))


def report(done: Sequence[Erased], gone: int, keks: Sequence[str], as_json: bool) -> None:
    """Print what was destroyed, and until when it can still come back."""
    if as_json:
        click.echo(
            msgspec.json.encode(
                {
                    "erased": [
                        {
                            "host": erased.host,
                            "purpose": erased.purpose,
                            "positions": erased.positions,
                            "data_keys": [key.data_key for key in erased.erasures],
                            "bodies": erased.bodies,
                        }
                        for erased in done
                    ],
                    "erased_meanwhile": gone,
                    "keks": keks,
                }
            )
        )
        return
    click.echo(f"erased: {summary(done)}")
    if gone:
        click.echo(f"{gone} names were erased by somebody else meanwhile")
    click.echo(
        "The database's files, its WAL and its backups still hold the wrapped keys for a while. "
        "It is for good once every KEK that ever wrapped them is destroyed: "
        f"{', '.join(keks)}. Run secrets-broker rotate-key, then destroy the old key."
    )

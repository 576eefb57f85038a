"""`secrets-broker verify --receipt`: check one event's receipt, without any ledger."""

from collections.abc import Sequence
from typing import Any

import click
import msgspec

from secrets_broker.ledger.transparency_log.note import (
    COSIGNATURE,
    NoteError,
    Signature,
    VerifierKey,
)
from secrets_broker.ledger.transparency_log.receipt import Receipt, ReceiptError
from secrets_broker.tools.verify.inputs import read
from secrets_broker.tools.verify.report import printable


def verify_receipt(path: str, keys: Sequence[VerifierKey], *, as_json: bool) -> bool:
    """Print what a receipt says, and tell whether it is proven."""
    if not keys:
        raise click.UsageError("a receipt needs a --verifier-key (or LEDGER_VERIFIER_KEY)")
    report = _report(read(path), keys)
    click.echo(msgspec.json.encode(report) if as_json else _text(report))
    return bool(report["ok"])


def _report(text: str, keys: Sequence[VerifierKey]) -> dict[str, Any]:
    try:
        receipt = Receipt.parse(text)
        signers = receipt.verify(keys)
        note = receipt.checkpoint.note
        witnesses = note.verified_by(key for key in keys if key.kind == COSIGNATURE)
        entry = msgspec.json.decode(receipt.entry or b"", type=dict[str, Any])
    except (ReceiptError, NoteError, msgspec.DecodeError) as error:
        return {"ok": False, "problem": str(error)}
    tree = receipt.checkpoint.checkpoint
    return {
        "ok": True,
        "position": receipt.position,
        "entry": entry,
        "checkpoint": {"origin": tree.origin, "size": tree.size},
        "signed_by": [key.name for key in signers],
        "cosigned_by": [
            {"name": key.name, "at": _moment(note.signatures, key)} for key in witnesses
        ],
    }


def _moment(lines: Sequence[Signature], key: VerifierKey) -> int:
    found = next(line for line in lines if (line.name, line.key_id) == (key.name, key.key_id))
    return int.from_bytes(found.signature[:8], "big")


def _text(report: dict[str, Any]) -> str:
    if not report["ok"]:
        return printable(f"NOT OK: {report['problem']}")
    tree = report["checkpoint"]
    entry = [f"  {name}: {value!r}" for name, value in report["entry"].items() if value is not None]
    cosigned = ", ".join(f"{one['name']} ({one['at']} s)" for one in report["cosigned_by"])
    lines = [
        f"position {report['position']}",
        *entry,
        f"checkpoint of {tree['origin']}, {tree['size']} events",
        f"signed by {', '.join(report['signed_by'])}",
        f"cosigned by {cosigned or 'no witness whose key was given'}",
        "OK: the event is in the log at this position",
    ]
    return "\n".join(map(printable, lines))

"""Commands about access: they change grants, or ask whether the caller may enter."""

from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from secrets_broker.ledger.access.rights import Rights
from secrets_broker.ledger.encoding import label_problem, name_problem
from secrets_broker.ledger.events import MAX_NAME

_SHA256: Final = "^[0-9a-f]{64}$"
_GRANT_ID: Final = "^[0-9a-f]{16}$"

GranteeName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Sha256 = Annotated[str, Meta(pattern=_SHA256)]


class _AboutGrant(msgspec.Struct, frozen=True, kw_only=True):
    grantee: GranteeName

    def __post_init__(self) -> None:
        """Check what types cannot express; the name becomes the actor of events."""
        if problem := grantee_problem(self.grantee):
            raise ValueError(f"name: {problem}")

    @property
    def name(self) -> None:
        """It concerns no credential."""
        return None


class Grant(_AboutGrant, frozen=True, kw_only=True):
    """Give a name rights, and a key; without a key, a certificate proves the name."""

    id: Annotated[str, Meta(pattern=_GRANT_ID)]
    sha256: Sha256 | None
    rights: Rights

    def __post_init__(self) -> None:
        """Check a new name by more rules than an old one, which must stay revocable."""
        super().__post_init__()
        if problem := name_problem(self.grantee):
            raise ValueError(f"name: {problem}")


class ChangeGrant(_AboutGrant, frozen=True, kw_only=True):
    """Replace the rights of a grant; its keys stay."""

    rights: Rights


class RotateKey(_AboutGrant, frozen=True, kw_only=True):
    """Give a grant a new key; its earlier keys end at `previous_until`."""

    sha256: Sha256
    previous_until: datetime


class Revoke(_AboutGrant, frozen=True, kw_only=True):
    """End a grant and all its keys, at once and for ever."""


GrantCommand = Grant | ChangeGrant | RotateKey | Revoke


class Enter(msgspec.Struct, frozen=True, kw_only=True):
    """Ask whether the caller may use an operation at all; only a refusal is recorded."""

    operation: str
    names: bool = False
    """Whether the caller names credentials later, and is judged for each. Only then is it known
    which rule decides, and whether that needs a reason."""

    @property
    def name(self) -> None:
        """It concerns no credential."""
        return None


def grantee_problem(name: str) -> str | None:
    """Say what is wrong with the name of a grant, or None."""
    if not name.isprintable():  # nor what changes how a line looks, as U+202E does
        return "must not contain control or format characters"
    if name != name.strip():
        return "must not begin or end with white space"
    return label_problem(name, MAX_NAME)

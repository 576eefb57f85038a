"""Which share of common room a request takes, by its caller as far as it is proven. Pure."""

from typing import Final

from secrets_broker.ledger.access.grants import Grants
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.scheduling.fair_queue import Share
from secrets_broker.ledger.scheduling.network_source import source_of

_STRANGERS: Final = "nobody"


def share_of(context: Context, grants: Grants) -> Share:
    """The share of a grant, by any of its keys, or of the address that a shared key came from.

    A grant's share is divided by the address of use. The share of a shared key is divided by the
    name that the caller claims, so a false name divides only its own share. All callers without a
    grant have one share, divided by address.
    """
    source = source_of(context.ip)
    if context.subject is None:
        return Share((context.authn, source), context.actor)
    granted = grants.of(context.subject)
    return Share(granted.id, source) if granted else Share(_STRANGERS, source)

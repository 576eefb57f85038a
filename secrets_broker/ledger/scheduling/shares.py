"""Whose share of what there is for all a request takes: who asks, as far as it is proven. Pure."""

from typing import Final

from secrets_broker.ledger.access.grants import Grants
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.scheduling.fair_queue import Share
from secrets_broker.ledger.scheduling.network_source import source_of

_STRANGERS: Final = "nobody"


def share_of(context: Context, grants: Grants) -> Share:
    """A grant, whichever of its keys was shown; or the address that a shared key came from.

    What divides a share further is where a grant is used from, and what a caller with a shared
    key calls himself: his own word, by which he can divide his own share and no more. All who
    have no grant share one, divided by where they come from.
    """
    source = source_of(context.ip)
    if context.subject is None:
        return Share((context.authn, source), context.actor)
    granted = grants.of(context.subject)
    return Share(granted.id, source) if granted else Share(_STRANGERS, source)

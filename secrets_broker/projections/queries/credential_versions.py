"""The SQL of a version's beginning and end, from ledger.events; several questions share it."""

from typing import Final

from secrets_broker.ledger import event_types
from secrets_broker.ledger.event_types import IS_CHANGE, REKEYED, is_one_of

OF_NAME: Final = f"{IS_CHANGE} AND host = %(host)s AND purpose = %(purpose)s"
"""The changes of one name, without reads; the index events_changes serves it."""

OF_NO_NAME: Final = f"{IS_CHANGE} AND host IS NULL AND purpose IS NULL"
"""The changes that belong to no name; the same index serves it."""

MAKES: Final = is_one_of(event_types.MAKES)
"""Whether a change makes a version; a change of the data key does not."""

# Any next change of a name ends the version before it: an update makes the next version, a delete
# or an erasure leaves none, and nothing is created while a credential is live.
ENDED: Final = f"""
    LEFT JOIN LATERAL (
        SELECT position, at, type, actor FROM ledger.effective_events
        WHERE {OF_NAME} AND type <> '{REKEYED}' AND position > made.position
        ORDER BY position LIMIT 1
    ) AS ended ON true
"""  # noqa: S608 - our own words

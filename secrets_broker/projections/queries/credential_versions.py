"""The SQL of a version's life, which several questions share; in terms of ledger.events alone."""

from typing import Final

from secrets_broker.ledger import event_types
from secrets_broker.ledger.event_types import IS_CHANGE, REKEYED, is_one_of

OF_NAME: Final = f"{IS_CHANGE} AND host = %(host)s AND purpose = %(purpose)s"
"""The changes of one name; events_changes has them, and reads are not in it."""

OF_NO_NAME: Final = f"{IS_CHANGE} AND host IS NULL AND purpose IS NULL"
"""Those that belong to no name; the same index has them."""

MAKES: Final = is_one_of(event_types.MAKES)
"""Whether a change makes a version. A new data key does not: it keeps the version."""

# A name's next change, whatever it is, ends the version before it: an update makes the next one,
# a delete or an erasure leaves none, and nothing is created where something is live.
ENDED: Final = f"""
    LEFT JOIN LATERAL (
        SELECT position, at, type, actor FROM ledger.effective_events
        WHERE {OF_NAME} AND type <> '{REKEYED}' AND position > made.position
        ORDER BY position LIMIT 1
    ) AS ended ON true
"""  # noqa: S608 - our own words

"""Conditions: what somebody should be told of, as a fold over the events in their order.

Pure, except for `following`, which reads the ledger as it grows; the only clock is the events' own
times. The same events always give the same conditions with the same ids. An id that comes twice is
one condition.

    conditions = Conditions(Thresholds())
    for event in events:              # rows of ledger.events, the columns COLUMNS, by position
        for condition in conditions.take(event):
            ...

Its memory is bounded, and a stored `Memory` can be continued from. tools/watch delivers conditions.

`single_event` has what one event says by itself; `rates`, `unusual_readers` and `time_windows`
(sliding ones) what several say.
"""

from secrets_broker.projections.conditions.condition import (
    COLUMNS,
    WORDS,
    Condition,
    Happened,
)
from secrets_broker.projections.conditions.condition_fold import Conditions, Memory
from secrets_broker.projections.conditions.thresholds import Thresholds

__all__ = ["COLUMNS", "WORDS", "Condition", "Conditions", "Happened", "Memory", "Thresholds"]

"""What somebody should be told of, from the events alone: a fold over them, in their order.

Pure: no clock but the events' own times, no SQL but `following`, which reads the ledger as it
grows. The same events give the same conditions, with the same ids, however often they are folded.
An id that comes twice is one condition.

    conditions = Conditions(Thresholds())
    for event in events:              # rows of ledger.events, the columns COLUMNS, by position
        for condition in conditions.take(event):
            ...

What it remembers is bounded; a `Memory` can be kept and continued from. How somebody is told is in
tools/watch.
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

"""The commands of an auditor: history, exposure, events, unused, due. One file a question.

What they ask is in projections/queries.
"""

from secrets_broker.tools.queries.event_list import events
from secrets_broker.tools.queries.exposure import exposure
from secrets_broker.tools.queries.history import history
from secrets_broker.tools.queries.unused import unused

QUESTIONS = (history, exposure, events, unused)

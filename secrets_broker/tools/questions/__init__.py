"""The commands of an auditor: history, exposure, events, unused."""

from secrets_broker.tools.questions.events import events
from secrets_broker.tools.questions.exposure import exposure
from secrets_broker.tools.questions.history import history
from secrets_broker.tools.questions.unused import unused

QUESTIONS = (history, exposure, events, unused)

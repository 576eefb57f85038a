"""What the service may answer in place of a 200, gathered from where it is declared."""

from secrets_broker.http import problems
from secrets_broker.http.problems import Problem

DECLARED = frozenset(one for one in vars(problems).values() if isinstance(one, Problem))
OF_REFUSALS = frozenset(
    (
        problems.FORBIDDEN,
        problems.NOT_ALLOWED,
        problems.TOO_WIDE,
        problems.NO_REASON,
        problems.TOO_MANY_REQUESTS,
    )
)

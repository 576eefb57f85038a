"""Getting a condition told, however long it takes: the next one waits, and nothing is dropped."""

import asyncio
import random
from dataclasses import dataclass
from typing import Final

import structlog

from secrets_broker.projections.conditions import Condition
from secrets_broker.tools.watch.sink import DeliveryError, Sink

_log = structlog.get_logger(__name__)

LONGEST_PAUSE: Final = 60.0
_ATTEMPTS_AT_ONCE: Final = 6
"""Of a run that is to end: some thirty seconds."""
_SAY_EACH: Final = 10
"""After how many failed attempts the failure is logged again."""


@dataclass(slots=True)
class Delivery:
    """Tries until it is taken; where `patient` is false, a few times."""

    sink: Sink
    patient: bool = True

    async def tell(self, condition: Condition) -> None:
        """Come back when it was taken; raises DeliveryError where it is not patient."""
        failures, said = 0, ""
        while True:
            try:
                await self.sink.send(condition)
            except DeliveryError as error:
                failures += 1
                if not self.patient and (error.lasting or failures == _ATTEMPTS_AT_ONCE):
                    raise
                if str(error) != said or failures % _SAY_EACH == 0:
                    _say(condition, error, failures)
                said = str(error)
                await asyncio.sleep(pause(failures, error))
            else:
                if failures:
                    _log.info("told_again", id=condition.id, attempts=failures + 1)
                return


def pause(failures: int, error: DeliveryError) -> float:
    """Seconds until the next attempt: longer each time, and never just when others try too."""
    if error.retry_after is not None:
        return min(float(error.retry_after), 5 * LONGEST_PAUSE)
    longest = LONGEST_PAUSE if error.lasting else min(LONGEST_PAUSE, 2.0 ** min(failures - 1, 8))
    # Half of it is left to chance: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _say(condition: Condition, error: DeliveryError, failures: int) -> None:
    tell = _log.error if error.lasting else _log.warning
    tell("not_told", id=condition.id, why=str(error), attempts=failures, next="it is tried again")

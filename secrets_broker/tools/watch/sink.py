"""Where conditions are told: something that takes them one by one, or says why not."""

import json
import sys
from typing import Protocol

import msgspec

from secrets_broker.ledger.errors import LedgerError
from secrets_broker.projections.conditions import Condition


class DeliveryError(LedgerError):
    """A condition was not taken; the text names the receiver and says why.

    It may have been taken all the same: it is sent again, under the same id.
    """

    def __init__(
        self, message: str, *, lasting: bool = False, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.lasting = lasting
        """Whether it is for somebody to put right: there is no hurry to try again."""
        self.retry_after = retry_after
        """Seconds that the receiver asks for."""


class Sink(Protocol):
    """Takes conditions."""

    async def send(self, condition: Condition) -> None:
        """Hand it over; raises DeliveryError."""

    def close(self) -> None:
        """Let go of what is open."""


def line(condition: Condition) -> str:
    """One JSON object on one line, all ASCII: what others wrote is escaped and steers nothing."""
    return json.dumps(msgspec.to_builtins(condition))


class StandardOutput:
    """A line each."""

    async def send(self, condition: Condition) -> None:
        """Write it through to the reader; raises DeliveryError."""
        try:
            sys.stdout.write(f"{line(condition)}\n")
            sys.stdout.flush()
        except OSError as error:
            raise DeliveryError(f"standard output: {error.strerror}", lasting=True) from None

    def close(self) -> None:
        """It is not ours."""

"""A change whose body does not open: said by whatever makes rows, and never guessed over."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A change whose body does not open; its row is left as it is."""

    host: str
    purpose: str
    position: int
    why: str

"""The report of a change whose body cannot be decrypted."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A change whose body cannot be decrypted; its row is left as it is."""

    host: str
    purpose: str
    position: int
    why: str

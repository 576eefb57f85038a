"""One setting, as it is declared; as an attribute of Settings it is its value, parsed.

Nothing is parsed or required until it is asked for, so that a command only needs what it uses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Generic, Protocol, TypeVar, overload

T_co = TypeVar("T_co", covariant=True)


class Fresh(Enum):
    """What `keygen` prints a setting with, and `dev` puts into a .env that lacks it."""

    EMPTY = auto()
    """Nothing: the line shows that there is such a setting."""
    KEY = auto()
    WEBHOOK_KEY = auto()
    LOG_NAME = auto()
    LOG_SIGNING_KEY = auto()
    LOG_VERIFIER_KEY = auto()


OF_THE_LOG: Final = frozenset({Fresh.LOG_NAME, Fresh.LOG_SIGNING_KEY, Fresh.LOG_VERIFIER_KEY})
"""What is of one key, and only made together."""


class Values(Protocol):
    """What the sources said, by name; nothing in it is empty."""

    @property
    def values(self) -> Mapping[str, str]:
        """Every name that a source said something of."""


@dataclass(frozen=True, slots=True)
class Setting(Generic[T_co]):
    """A setting: all that is known of it. An empty value of it counts as unset."""

    name: str
    kind: Callable[[str, str | None], T_co]
    """Name and text (None where it is unset) to the value; raises SettingsError."""
    what: str
    """A sentence, for the page of settings."""
    see: str = ""
    """The part of the documentation that says more."""
    needed_by: str = ""
    """The commands that cannot do without."""
    default: str | None = None
    unset: str = ""
    """What holds where it is not set and has no default, in words."""
    secret: bool = False
    """Whether NAME_FILE may name a file that holds it, and logs mask what is called so."""
    fresh: Fresh | None = None
    beside: Callable[[Mapping[str, str]], None] | None = None
    """Raises SettingsError where it cannot stand beside the other values."""

    @overload
    def __get__(self, settings: None, owner: type) -> "Setting[T_co]": ...
    @overload
    def __get__(self, settings: Values, owner: type) -> T_co: ...
    def __get__(self, settings: Values | None, owner: type) -> "Setting[T_co] | T_co":
        """The declaration, of a class; the value, of its instance."""
        if settings is None:
            return self
        if self.beside is not None:
            self.beside(settings.values)
        return self.kind(self.name, settings.values.get(self.name) or self.default)

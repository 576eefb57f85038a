"""The declaration of one setting, a descriptor: as an attribute of Settings it is the parsed value.

A setting is parsed, and required, only when it is read. So a command only needs what it uses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Generic, Protocol, TypeVar, overload

T_co = TypeVar("T_co", covariant=True)


class Fresh(Enum):
    """The value that `keygen` prints for a setting, and `dev` adds to a .env that lacks it."""

    EMPTY = auto()
    """No value: the line only shows that the setting exists."""
    KEY = auto()
    WEBHOOK_KEY = auto()
    LOG_NAME = auto()
    LOG_SIGNING_KEY = auto()
    LOG_VERIFIER_KEY = auto()


OF_THE_LOG: Final = frozenset({Fresh.LOG_NAME, Fresh.LOG_SIGNING_KEY, Fresh.LOG_VERIFIER_KEY})
"""The values that belong to one key, and are only made together."""


class Values(Protocol):
    """The sources' values by name; none is empty."""

    @property
    def values(self) -> Mapping[str, str]:
        """All values, by the settings' names."""


@dataclass(frozen=True, slots=True)
class Setting(Generic[T_co]):
    """A setting and all its properties. An empty value counts as unset."""

    name: str
    kind: Callable[[str, str | None], T_co]
    """From name and text (None if unset) to the value; raises SettingsError."""
    what: str
    """A sentence, for the page of settings."""
    see: str = ""
    """The part of the documentation that says more."""
    needed_by: str = ""
    """The commands that need it."""
    default: str | None = None
    unset: str = ""
    """What happens if it is unset and has no default, as a text."""
    secret: bool = False
    """Whether NAME_FILE may name a file that holds it, and logs mask what is called so."""
    fresh: Fresh | None = None
    beside: Callable[[Mapping[str, str]], None] | None = None
    """Raises SettingsError if it conflicts with the other values."""

    @overload
    def __get__(self, settings: None, owner: type) -> "Setting[T_co]": ...
    @overload
    def __get__(self, settings: Values, owner: type) -> T_co: ...
    def __get__(self, settings: Values | None, owner: type) -> "Setting[T_co] | T_co":
        """The declaration on the class; the value on an instance."""
        if settings is None:
            return self
        if self.beside is not None:
            self.beside(settings.values)
        return self.kind(self.name, settings.values.get(self.name) or self.default)

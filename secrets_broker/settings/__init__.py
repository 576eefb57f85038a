"""Settings: what may be set, each declared once, and the one room that reads the environment.

`declaration` has every setting. What they are read from, `reading` says; what several of them come
to together, `settings`. Nothing of what they are used for lives here.
"""

from secrets_broker.settings.declaration import ATTRIBUTES, DATA_DIR, DECLARED, SECRETS, SHARED_KEYS
from secrets_broker.settings.errors import (
    MissingSettingError,
    SettingsError,
    UnreadableSettingsError,
)
from secrets_broker.settings.reading import colours_are_welcome, text_of_file
from secrets_broker.settings.setting import OF_THE_LOG, Fresh, Setting
from secrets_broker.settings.settings import Settings, Tls

__all__ = [
    "ATTRIBUTES",
    "DATA_DIR",
    "DECLARED",
    "OF_THE_LOG",
    "SECRETS",
    "SHARED_KEYS",
    "Fresh",
    "MissingSettingError",
    "Setting",
    "Settings",
    "SettingsError",
    "Tls",
    "UnreadableSettingsError",
    "colours_are_welcome",
    "text_of_file",
]

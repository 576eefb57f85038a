"""Settings: each declared once, and the one room that reads the environment.

`declaration` has every setting with its default, `reading` their sources, and `settings` what
several of them mean together. What uses a setting is elsewhere.
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

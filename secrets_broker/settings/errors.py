"""What is wrong with the settings; no text holds a secret."""


class SettingsError(Exception):
    """The command cannot work with these settings; the text says what to do."""


class UnreadableSettingsError(SettingsError):
    """A file of settings exists, but cannot be read."""

    def __init__(self, what: object, error: OSError | UnicodeDecodeError) -> None:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        super().__init__(f"{what} cannot be read ({why}): correct that, or remove it")


class MissingSettingError(SettingsError):
    """A setting that this command needs is missing."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} not set: put it into the environment or a .env file, "
            "or print fresh settings with: secrets-broker keygen"
        )
        self.name = name

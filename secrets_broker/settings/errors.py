"""What is wrong with the settings, in words that hold no secret."""


class SettingsError(Exception):
    """The settings are not such that the command can work; says what to do."""


class UnreadableSettingsError(SettingsError):
    """A file of settings is there, and cannot be read."""

    def __init__(self, what: object, error: OSError | UnicodeDecodeError) -> None:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        super().__init__(f"{what} cannot be read ({why}): correct that, or remove it")


class MissingSettingError(SettingsError):
    """A setting that this command needs is not there."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} not set: put it into the environment or a .env file, "
            "or print fresh settings with: secrets-broker keygen"
        )
        self.name = name

"""The kinds of settings: each is a function from a setting's name and text to its value.

Each raises SettingsError if the text is not of its kind; the error does not repeat the text.
"""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final

from secrets_broker.ledger.access.shared_key import require_fit
from secrets_broker.settings.errors import MissingSettingError, SettingsError

ENVIRONMENT_KMS: Final = "environment:"
MAX_NUMBER: Final = 1_000_000
MIN_SECONDS: Final = 0.05
MAX_SECONDS: Final = 3_600

_SWITCHES: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_CLIENT_CERTIFICATES: Final = {"required": True, "optional": False}


def text(_name: str, given: str | None) -> str | None:
    """Any text, or None."""
    return given


def required(name: str, given: str | None) -> str:
    """Any text; raises MissingSettingError if there is none."""
    if given is None:
        raise MissingSettingError(name)
    return given


def shared_key(name: str, given: str | None) -> str:
    """A key that is shared as a text; raises MissingSettingError or UnfitKeyError."""
    return require_fit(name, required(name, given))


def optional_shared_key(name: str, given: str | None) -> str | None:
    """As `shared_key`, or None; raises UnfitKeyError."""
    return None if given is None else require_fit(name, given)


def previous_keys(_name: str, given: str | None) -> tuple[str, ...]:
    """Any text as one key, byte for byte, or several between commas or on lines.

    The text does not tell which is meant. So each reading is a key, and a wrong one opens nothing.
    """
    whole = given or ""
    lines = whole.split("\n")
    parts = [part for line in lines for part in line.split(",")]
    readings = (whole, *lines, *parts, *(part.strip() for part in parts))
    return tuple(dict.fromkeys(key for key in readings if key))


def kms_url(_name: str, given: str | None) -> str | None:
    """A URL; None if it is unset or means the key in the environment."""
    return None if given == ENVIRONMENT_KMS else given


def kms_urls(name: str, given: str | None) -> tuple[str, ...]:
    """URLs between white space; not commas, since a URL may hold one."""
    return tuple(url for url in words(name, given) if url != ENVIRONMENT_KMS)


def words(_name: str, given: str | None) -> tuple[str, ...]:
    """Texts between white space, or none."""
    return tuple((given or "").split())


def path(_name: str, given: str | None) -> Path | None:
    """A path, or None."""
    return Path(given) if given else None


def folder(name: str, given: str | None) -> Path:
    """A path; such a setting has a default."""
    return Path(required(name, given))


def seconds(name: str, given: str | None) -> float:
    """How long or how often, in seconds."""
    try:
        number = float(given or "")
    except ValueError:
        number = 0.0
    if not MIN_SECONDS <= number <= MAX_SECONDS:
        raise SettingsError(f"{name} must be a number from {MIN_SECONDS} to {MAX_SECONDS}")
    return number


def whole_number(name: str, given: str | None) -> int:
    """How many, and at least one."""
    number = int(given) if given and re.fullmatch("[0-9]{1,7}", given) else 0
    if not 1 <= number <= MAX_NUMBER:
        raise SettingsError(f"{name} must be a whole number from 1 to {MAX_NUMBER}")
    return number


def switch(name: str, given: str | None) -> bool:
    """True or false."""
    word = (given or "").lower()
    if word not in _SWITCHES:
        raise SettingsError(f"{name} must be true or false")
    return _SWITCHES[word]


def certificate_required(name: str, given: str | None) -> bool:
    """Whether a client without a certificate is refused in the handshake."""
    word = (given or "").lower()
    if word not in _CLIENT_CERTIFICATES:
        raise SettingsError(f"{name} must be required or optional")
    return _CLIENT_CERTIFICATES[word]


def readable(_name: str, given: str | None) -> bool:
    """Whether log lines are readable for people, instead of JSON."""
    return given == "readable"


def networks(name: str, given: str | None) -> tuple[IPv4Network | IPv6Network, ...]:
    """Addresses and CIDRs, between commas or white space, or none."""
    texts = (given or "").replace(",", " ").split()
    return tuple(
        _network(f"{name}: entry {number}", entry) for number, entry in enumerate(texts, 1)
    )


def _network(where: str, entry: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(entry)
    except ValueError:
        raise SettingsError(
            f"{where} is no address, and no CIDR without bits behind its prefix"
        ) from None
    if network.prefixlen == 0:
        # Else every address would be a proxy's, and any client could forge its own address.
        raise SettingsError(f"{where} is everybody: name the proxies")
    return network

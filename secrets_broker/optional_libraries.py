"""Says what to install where an optional library is missing.

secrets-broker is on no package index, so `pip install 'secrets-broker[aws]'` finds nothing. The
packages of an extra are on one.
"""

import shlex
import sys
from importlib.metadata import PackageNotFoundError, requires


def how_to_install(extra: str) -> str:
    """The command that installs the packages of an extra for the running Python."""
    packages = shlex.join(_packages(extra))
    if not packages:
        return f"install secrets-broker from its checkout with the extra [{extra}]"
    return f"{shlex.quote(sys.executable)} -m pip install {packages}"


def _packages(extra: str) -> list[str]:
    try:
        stated = requires("secrets-broker") or []
    except PackageNotFoundError:  # it runs from a folder and was not installed
        return []
    parts = (line.replace("'", '"').partition(";") for line in stated)
    return [package.strip() for package, _, marker in parts if f'extra == "{extra}"' in marker]

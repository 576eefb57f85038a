"""Every class of error in the package, wherever it is defined."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages

import secrets_broker

# What runs, or needs what is not installed everywhere, when it is imported.
_NOT_MODULES = ("secrets_broker.http.server.gunicorn_conf",)


def errors() -> frozenset[type[BaseException]]:
    """All of them, private ones too."""
    for module in walk_packages(secrets_broker.__path__, "secrets_broker."):
        if module.name not in _NOT_MODULES:
            import_module(module.name)
    return frozenset(
        one for one in _below(BaseException) if one.__module__.startswith("secrets_broker.")
    )


def _below(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    for one in type.__subclasses__(kind):
        yield one
        yield from _below(one)

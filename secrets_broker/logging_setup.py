"""Logging by structlog: JSON lines in production, readable lines in development.

Nothing that could hold a secret is passed to a logger. Two safeguards back this rule: values under
a name that sounds secret are masked, and tracebacks are printed without local variables.
"""

import logging
import sys
from collections.abc import MutableMapping
from functools import cache
from typing import Any, Final

import msgspec
import structlog

from secrets_broker.settings import ATTRIBUTES, colours_are_welcome

_SECRET_NAMES: Final = ("password", "secret", "key", "token", "body", "authorization", "dsn", "url")
# By its name in the environment, or by our own.
_SECRET_SETTINGS: Final = frozenset(
    name
    for attribute, setting in ATTRIBUTES.items()
    if setting.secret
    for name in (attribute, setting.name)
)
_PUBLIC_NAMES: Final = frozenset({"kek", "data_key_id"})
MASK: Final = "********"


def configure(*, readable: bool = False, level: int = logging.INFO) -> None:
    """Send structlog's and the standard library's records to standard error."""
    render: list[Any] = (
        [_console()]
        if readable
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dump)]
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        mask_secrets,
    ]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.getLogger("urllib3").propagate = False  # it logs URLs and answers
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it logs where it finds its login
    logging.getLogger("yoyo").setLevel(
        logging.WARNING
    )  # our migration runner logs each file itself


def _console() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty() and colours_are_welcome(),
        exception_formatter=structlog.dev.plain_traceback,
    )


def mask_secrets(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Mask every value whose name sounds secret, from whichever logger."""
    for name in event:
        if _sounds_secret(name):
            event[name] = MASK
    return event


@cache  # all names come from our own code, so there are few
def _sounds_secret(name: str) -> bool:
    return name in _SECRET_SETTINGS or (
        name not in _PUBLIC_NAMES and any(word in name.lower() for word in _SECRET_NAMES)
    )


def _dump(event: MutableMapping[str, Any], **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()

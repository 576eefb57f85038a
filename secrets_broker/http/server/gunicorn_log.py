"""gunicorn's own log lines, in the same format as all others."""

from typing import Any

from gunicorn.glogging import Logger

from secrets_broker import logging_setup
from secrets_broker.settings import Settings


class BrokerLogger(Logger):
    """Passes gunicorn's and uvicorn's records to the root logger, which writes all lines."""

    def setup(self, cfg: Any) -> None:
        """Remove gunicorn's handlers, and propagate to the root logger."""
        logging_setup.configure(readable=Settings.load().readable_logs)
        level = self.LOG_LEVELS[cfg.loglevel.lower()]
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(level)

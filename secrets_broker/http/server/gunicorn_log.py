"""gunicorn's own lines, in the form of all the others."""

from typing import Any

from gunicorn.glogging import Logger

from secrets_broker import logging_setup
from secrets_broker.settings import Settings


class BrokerLogger(Logger):
    """Hands gunicorn's and uvicorn's records on to the one place that writes them."""

    def setup(self, cfg: Any) -> None:
        """Let records pass to the root logger, and have no handler of its own."""
        logging_setup.configure(readable=Settings.load().readable_logs)
        level = self.LOG_LEVELS[cfg.loglevel.lower()]
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(level)

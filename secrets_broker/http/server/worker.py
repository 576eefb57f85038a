"""gunicorn's worker: uvicorn on uvloop and httptools, without trust in proxy headers."""

import logging
import sys
from typing import Any, ClassVar

from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from secrets_broker import tls
from secrets_broker.http.server.descriptors import Caps, raised
from secrets_broker.http.server.peer import Peers
from secrets_broker.settings import Settings


class BrokerWorker(UvicornWorker):
    """Serves with `CarefulProtocol`; `peer` finds the client's address, not uvicorn."""

    sockets: list[Any]  # what it listens on; gunicorn has no types
    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        # By name: the master must not import prometheus_client, nor anything that does.
        "http": "secrets_broker.http.server.protocol:CarefulProtocol",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "ws": "none",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if tls.SERVED.context:
            self.config.ssl_context_factory = lambda *_: tls.SERVED.context
        # The base class stops propagation, so these lines would be printed without our format.
        logger = logging.getLogger("uvicorn.error")
        logger.propagate = True
        logger.setLevel(logging.WARNING)  # gunicorn logs starts and ends
        # The protocol has a line of its own for each request that it refuses.
        logger.addFilter(_is_not_a_refusal)

    def run(self) -> None:
        """Serve until told to end."""
        # uvicorn would close gunicorn's wrappers after the loop has closed the sockets in them,
        # and log an error at each end.
        self.sockets = [wrapper.sock for wrapper in self.sockets]
        super().run()

    async def _serve(self) -> None:
        # Here, and not above: the master must not import prometheus_client.
        from secrets_broker.http.server.acceptor import BrokerServer  # noqa: PLC0415
        from secrets_broker.http.server.connections import ConnectionLimits  # noqa: PLC0415

        self.config.app = self.wsgi
        settings = Settings.load()
        caps = Caps.of(settings, raised())
        server = BrokerServer(self.config, ConnectionLimits(caps, Peers(settings.trusted_proxies)))
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)


def _is_not_a_refusal(record: logging.LogRecord) -> bool:
    return record.msg != "Invalid HTTP request received."

"""gunicorn's worker: uvicorn on uvloop and httptools, trusting no header about the peer."""

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

from secrets_broker.http.protocol import CarefulProtocol


class BrokerWorker(UvicornWorker):
    """Serves with uvicorn's C parser, carefully; who the peer is comes from the socket alone."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": CarefulProtocol,
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "ws": "none",
    }

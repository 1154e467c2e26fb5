"""The HTTP server of moto's own, with another application in it."""

from __future__ import annotations

from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import BaseWSGIServer, make_server


class _Quiet(MotoRequestHandler):  # type: ignore[misc]  # moto has no types for who looks at it from outside
    def log_request(self, *_: Any) -> None:
        """Nobody reads it."""


def server(application: Any) -> BaseWSGIServer:
    """Listens on loopback, a thread for each request."""
    return make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Quiet)

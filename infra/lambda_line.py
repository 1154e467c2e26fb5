"""The line of one HTTP exchange: whether a request can have gone over it, and an end to it once its time is up."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, ClassVar

import requests
import requests.adapters
import urllib3
from urllib3.connection import HTTPConnection


class Line(requests.adapters.HTTPAdapter):
    """The one connection of one exchange; as a context it is cut when its time is up.

    Args:
        total_s: for all of it, TLS and headers included. The other side may drip: no bound of a single read holds then.

    Attributes:
        is_open: the connection stood, TLS included: from there on a request may have arrived. Which of requests' exceptions
            comes says nothing about that, since TLS fails in the same words before and after.
        is_cut: its time was up.
    """

    def __init__(self, total_s: float) -> None:
        super().__init__()
        self.is_open = False
        self.is_cut = False
        self._total_s = total_s
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(total_s, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Line:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
        self.close()

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: bool | str | None,
        proxies: Mapping[str, str] | None = None,
        cert: tuple[str, str] | str | None = None,
    ) -> urllib3.HTTPConnectionPool:
        """The pool for a request, also one through a proxy, with a connection that tells this line of itself."""
        pool: Any = super().get_connection_with_tls_context(request, verify, proxies, cert)
        pool.ConnectionCls = type("Watched", (_Watched, pool.ConnectionCls), {"line": self})
        watched: urllib3.HTTPConnectionPool = pool
        return watched

    def check(self) -> None:
        """Refuses what came of a line that was cut.

        Raises:
            TimeoutError: it was.
        """
        if self.is_cut:
            raise TimeoutError(f"it took longer than {self._total_s:g} s")

    def watch(self, connected: socket.socket) -> None:
        """Takes a handle of its own, which nobody else closes and gives to another file."""
        with self._lock:
            self.check()
            self._socket = socket.socket(fileno=os.dup(connected.fileno()))

    def _cut(self) -> None:
        with self._lock:
            self.is_cut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)


class _Watched(HTTPConnection):
    line: ClassVar[Line]

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        try:
            self.line.watch(connected)
        except OSError:
            connected.close()
            raise
        return connected

    def connect(self) -> None:
        super().connect()
        self.line.is_open = True

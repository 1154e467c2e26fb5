"""A package index on loopback that gives its packages to whoever knows the password, and to nobody else."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER = "reader"


class IndexServer(ThreadingHTTPServer):
    """Has every package that is asked for, in version 1.0 and empty.

    Attributes:
        passwords: that open it.
        opened: those that were used.
    """

    daemon_threads = True

    def __init__(self, passwords: set[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.passwords = passwords
        self.opened: set[str] = set()

    @property
    def port(self) -> int:
        """Where."""
        return int(self.server_address[1])


class _Request(BaseHTTPRequestHandler):
    server: IndexServer

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        password = base64.b64decode(given).decode().partition(":")[2]
        if password not in self.server.passwords:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.server.opened.add(password)
        *_, name = self.path.rstrip("/").split("/")
        if name.endswith(".whl"):
            self._answer(wheel(name.partition("-")[0]), "application/octet-stream")
        else:
            digest = hashlib.sha256(wheel(name)).hexdigest()
            file = f"{name}-1.0-py3-none-any.whl"
            page = f'<a href="/files/{file}#sha256={digest}">{file}</a>'
            self._answer(page.encode(), "text/html")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


def wheel(name: str) -> bytes:
    """An empty package."""
    made, info = io.BytesIO(), f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return made.getvalue()


@contextlib.contextmanager
def index_server(passwords: set[str]) -> Iterator[IndexServer]:
    """One for as long as the block lasts."""
    server = IndexServer(passwords)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

"""What the emulated stores have in common: an HTTP server on loopback, its answers, and parts of a content."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Answers(BaseHTTPRequestHandler):
    """One connection, which is kept between requests; what a request asks for is in `place` and `query`."""

    protocol_version = "HTTP/1.1"

    @property
    def place(self) -> list[str]:
        """The steps of the path, each unquoted by itself: a quoted slash is none."""
        return [unquote(step) for step in urlsplit(self.path).path.strip("/").split("/")]

    @property
    def query(self) -> dict[str, str]:
        """The last of each name."""
        found = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {name: values[-1] for name, values in found.items()}

    @property
    def bearer(self) -> str:
        """The token that the request shows, "" where it shows none."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" else ""

    def body(self) -> bytes:
        """All of it."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        """Sends it whole; a name's underscores are hyphens."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, status: int, value: Any, **headers: str) -> None:
        """Sends it as JSON."""
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def answer_part(self, content: bytes, *, cut: bool = False, **headers: str) -> None:
        """Sends what the request's Range asks for (RFC 9110, one range of bytes), or all of it.

        Args:
            content: all of it.
            cut: the connection ends after half of what it should carry.
            headers: more of them.
        """
        wanted, size, start, end = self.headers.get("Range"), len(content), 0, len(content)
        if wanted is not None:
            found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted.strip())
            if found is None or found.groups() == ("", ""):
                wanted = None
            elif not found[1]:
                start = max(0, size - int(found[2]))
            else:
                start = int(found[1])
                end = min(size, int(found[2]) + 1) if found[2] else size
        if wanted is not None and start >= end:
            self.answer(416, b"", Content_Range=f"bytes */{size}")
            return
        part = content[start:end]
        self.send_response(206 if wanted is not None else 200)
        if wanted is not None:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        for name, value in {"Accept_Ranges": "bytes", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut:
            self.close_connection = True
            part = part[: len(part) // 2]
        with contextlib.suppress(OSError):
            self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@contextlib.contextmanager
def serving(kind: type[Answers]) -> Iterator[str]:
    """A server of such answers, for as long as the block lasts; gives its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()

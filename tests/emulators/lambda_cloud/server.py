"""The HTTP side: reads requests, lets the account and the fault script have their say, and answers."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import struct
import sys
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.emulators.lambda_cloud import control, operations, refusal
from tests.emulators.lambda_cloud.account import TooMany
from tests.emulators.lambda_cloud.cloud import Cloud
from tests.emulators.lambda_cloud.faults import Fault
from tests.emulators.lambda_cloud.operations import Call, Operation
from tests.emulators.lambda_cloud.options import Options
from tests.emulators.lambda_cloud.refusal import Refusal

_MOST_BYTES = 8 << 20
_PAGE = b"<!DOCTYPE html><html><body><h1>Something went wrong</h1></body></html>"


class Server(ThreadingHTTPServer):
    """Listens on a port of loopback."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, cloud: Cloud, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.cloud = cloud

    def renew(self, options: Options) -> None:
        """An empty world in the place of this one, with the same key, log and port map."""
        old = self.cloud
        old.close()
        old.truth.turn()
        options = replace(options, api_key=old.account.key)
        self.cloud = Cloud(options, old.folder, old.truth, old.ports)
        self.cloud.start(self.url, os.getpid())

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no mistake of this server's; anything else is."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            self.cloud.truth.failed("request")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "emulated-lambda-cloud"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Every method goes the same way."""
        length = int(self.headers.get("Content-Length") or 0)
        if length > _MOST_BYTES:
            self.close_connection = True
            self._answer(413, refusal.invalid("The request is too large.").envelope())
            return
        content = self.rfile.read(length)
        url = urlsplit(self.path)
        self._cloud = self.server.cloud
        try:
            if url.path == f"{control.BASE}renew":
                self._renew(_parsed(content))
            elif url.path.startswith(control.BASE):
                asked = _parsed(content)
                self._answer(*control.answer(self._cloud, self.command, url.path, asked))
            else:
                self._serve(url.path, dict(parse_qsl(url.query)), content)
        except Refusal as refused:
            self._answer(refused.status, refused.envelope())
        except TooMany as early:
            self._too_many(early.wait_s if self._cloud.options.retry_after else None)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """The ground truth is elsewhere."""

    def _renew(self, asked: Any) -> None:
        try:
            options = self._cloud.options if asked is None else Options.from_json(asked)
            operations.check(options.faults)
        except ValueError as error:
            self._answer(400, {"error": f"{error}"})
            return
        self.server.renew(options)
        self._answer(200, {})

    def _serve(self, path: str, query: dict[str, str], content: bytes) -> None:
        cloud = self._cloud
        found: tuple[Operation, str] | None = None
        with contextlib.suppress(Refusal):
            found = operations.find(self.command, path)
        fault = None if found is None else cloud.meet(found[0].name)
        if found is not None and fault is not None:
            cloud.truth.write("fault", op=found[0].name, kind=fault.kind)
            if self._fails_before(fault):
                return
        with cloud.lock:
            launch = found is not None and found[0].name == "launch"
            cloud.account.admit(self.headers.get("Authorization"), launch)
        if found is None:
            raise refusal.not_found()
        status, answer = self._act(*found, query, content, fault)
        self._answer_with(fault, status, answer)

    def _act(
        self,
        operation: Operation,
        id: str,
        query: dict[str, str],
        content: bytes,
        fault: Fault | None,
    ) -> tuple[int, dict[str, Any]]:
        cloud = self._cloud
        call = Call(cloud, id, query, _parsed(content))
        with cloud.lock:
            if cloud.ended:
                raise ConnectionAbortedError("this world has ended")
            try:
                answer = 200, operation.act(call)
            except Refusal as refused:
                answer = refused.status, refused.envelope()
            if fault is not None and fault.kind == "duplicate":
                with contextlib.suppress(Refusal):
                    operation.act(Call(cloud, id, query, call.content, again=True))
        return answer

    def _fails_before(self, fault: Fault) -> bool:
        """What a fault does before the call acts; True where it never does."""
        cloud = self._cloud
        if fault.kind == "hold_drop":
            cloud.script.hold()
        if fault.kind in ("drop_before", "hold_drop"):
            self._reset()
            return True
        if fault.kind == "status" and not fault.acts:
            self._fault_status(fault)
            return True
        if fault.kind == "delay":
            time.sleep(cloud.clock.real(fault.delay_s))
        elif fault.kind == "hold":
            cloud.script.hold()
        return False

    def _answer_with(self, fault: Fault | None, status: int, answer: dict[str, Any]) -> None:
        """The answer, as far as the fault leaves it alone."""
        kind = "" if fault is None else fault.kind
        body = json.dumps(answer).encode()
        if fault is not None and kind == "delay_answer":
            time.sleep(self._cloud.clock.real(fault.delay_s))
        elif kind == "hold_answer":
            self._cloud.script.hold()
        if kind == "drop_after":
            self._reset()
        elif fault is not None and kind == "status":
            self._fault_status(fault)
        elif kind == "truncate":
            self._head(status, len(body))
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif kind == "not_json":
            self._head(200, len(_PAGE), "text/html")
            self.wfile.write(_PAGE)
        elif kind == "empty":
            self._answer(200, {})
        elif fault is not None and kind == "trickle":
            self._trickle(status, body, self._cloud.clock.real(fault.delay_s))
        else:
            self._answer(status, answer)

    def _trickle(self, status: int, body: bytes, pause_s: float) -> None:
        self._head(status, len(body))
        for position in range(len(body)):
            self.wfile.write(body[position : position + 1])
            time.sleep(pause_s)

    def _fault_status(self, fault: Fault) -> None:
        if fault.status == 429:
            after_s = fault.retry_after_s
            self._too_many(None if after_s is None else self._cloud.clock.real(after_s))
            return
        envelope = Refusal(
            fault.status,
            "provider/internal-unavailable",
            "Provider unavailable",
            "Try again shortly",
        ).envelope()
        self._answer(fault.status, envelope)

    def _too_many(self, after_s: float | None) -> None:
        """The API's description has no 429, so its body is nothing that a client could rely on."""
        body = b"Too Many Requests"
        self._head(429, len(body), "text/plain", after_s)
        self.wfile.write(body)

    def _answer(self, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        self._head(status, len(body))
        self.wfile.write(body)

    def _head(
        self,
        status: int,
        length: int,
        content_type: str = "application/json",
        retry_after_s: float | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length))
        if retry_after_s is not None:
            self.send_header("Retry-After", str(math.ceil(retry_after_s)))
        self.end_headers()

    def _reset(self) -> None:
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()


def _parsed(content: bytes) -> Any:
    """The body, whatever its type is declared as, as curl's `--data` declares none of JSON."""
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError:
        raise refusal.invalid("body: JSON decode error") from None

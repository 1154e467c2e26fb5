"""Resource Manager over HTTP, with the token service that azure-identity asks and the retail prices beside it."""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.emulators.azure import prices, rules, shown, skus
from tests.emulators.azure.refusal import ArmError
from tests.emulators.azure.things import Operation, Thing
from tests.emulators.azure.world import World

_TOKEN_S = 3600
_SUBSCRIPTION = re.compile(r"/subscriptions/(?P<id>[^/]+)(?P<rest>/.*|)", re.IGNORECASE)
_TAG = re.compile(r"tagName eq '(?P<name>[^']+)'(?: and tagValue eq '(?P<value>(?:[^']|'')*)')?")
_API_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")


class Server(ThreadingHTTPServer):
    """Listens on loopback.

    Attributes:
        url: where.
        header: what a client has to show to the token service.
        token: what it gets there.
        requests: what was asked for, as (method, path).
        prices_status: of answers with prices.
    """

    daemon_threads = True
    prices_status: ClassVar[int] = 200

    def __init__(self, world: World, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.world = world
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.header, self.token = secrets.token_hex(16), secrets.token_urlsafe(32)
        self.requests: list[tuple[str, str]] = []
        self.prices = prices.Prices(world.options)
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    def close(self) -> None:
        """Ends it."""
        self.shutdown()
        self.server_close()


class _Answer(Exception):
    """What is sent, from wherever it is known."""

    def __init__(
        self, status: int, body: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server
    _acts: ClassVar[dict[str, str]] = {
        "PUT": "put",
        "DELETE": "delete",
        "GET": "get",
        "HEAD": "get",
    }

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        self._serve()

    do_PUT = do_DELETE = do_HEAD = do_GET

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.server.requests.append((self.command, parts.path))
        self._query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length)
        try:
            self._answer(parts.path, json.loads(text) if text else {})
        except _Answer as answer:
            self._send(answer)
        except ArmError as error:
            self._send(_Answer(error.status, error.as_json(), self._extra(error)))

    def _extra(self, error: ArmError) -> dict[str, str]:
        if error.retry_after_s is not None:
            return {"Retry-After": str(error.retry_after_s)}
        if error.status == 401:
            return {"WWW-Authenticate": 'Bearer authorization_uri="https://login.windows.net/t"'}
        return {}

    def _send(self, answer: _Answer) -> None:
        content = b"" if answer.body is None else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if content:
            self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _answer(self, path: str, body: dict[str, Any]) -> None:
        if path == "/msi/token":
            raise self._token()
        if path == "/api/retail/prices":
            page = self.server.prices.page(self._query, self.server.url)
            raise _Answer(self.server.prices_status, page)
        self._admit()
        found = _SUBSCRIPTION.fullmatch(path)
        if found is None:
            raise ArmError(404, "InvalidResourceType", f"There is nothing at {path}.")
        if found["id"].lower() != self.server.world.subscription:
            raise ArmError(
                404, "SubscriptionNotFound", f"The subscription '{found['id']}' could not be found."
            )
        raise self._route(path, found["rest"].lower().rstrip("/"), body)

    def _admit(self) -> None:
        if self.server.world.faults.is_throttled():
            raise ArmError(429, "TooManyRequests", "The request is being throttled.")
        given = self.headers.get("Authorization", "")
        if not given:
            raise ArmError(
                401,
                "AuthenticationFailed",
                "Authentication failed. The 'Authorization' header is missing.",
            )
        if given != f"Bearer {self.server.token}":
            raise ArmError(401, "InvalidAuthenticationToken", "The access token is invalid.")
        version = self._query.get("api-version", "")
        if not version:
            raise ArmError(
                400,
                "MissingApiVersionParameter",
                "The api-version query parameter (?api-version=) is required for all requests.",
            )
        if not _API_VERSION.fullmatch(version):
            raise ArmError(
                400, "InvalidApiVersionParameter", f"The api-version '{version}' is invalid."
            )

    def _token(self) -> _Answer:
        """As the managed identity of an App Service gives it: learn.microsoft.com/azure/app-service/overview-managed-identity."""
        if self.headers.get("X-IDENTITY-HEADER") != self.server.header:
            return _Answer(401, {"statusCode": 401, "message": "no such identity"})
        until = str(int(time.time()) + _TOKEN_S)
        resource = self._query.get("resource", "")
        return _Answer(
            200,
            {
                "access_token": self.server.token,
                "expires_on": until,
                "resource": resource,
                "token_type": "Bearer",
            },
        )

    def _route(self, path: str, rest: str, body: dict[str, Any]) -> _Answer:
        world, act = self.server.world, self._acts[self.command]
        if "/operations/" in rest or "/operationresults/" in rest:
            return self._operation(
                world.operations.of(rest.rpartition("/")[2]), "/operations/" in rest
            )
        if act == "get" and (listing := self._listing(rest)) is not None:
            return self._page(path, listing)
        if act == "get":
            thing = world.get(path)
            return _Answer(200, shown.as_json(thing, view=self._wants_view(thing)))
        if act == "put":
            thing, operation = world.put(path, body)
            return _Answer(201, shown.as_json(thing), self._polled(operation, path))
        deleted = world.delete(path)
        if deleted is None:
            return _Answer(204)
        return _Answer(202, None, self._polled(deleted, path))

    def _wants_view(self, thing: Thing) -> bool:
        return thing.type == rules.VM and self._query.get("$expand", "").lower() == "instanceview"

    def _polled(self, operation: Operation, path: str) -> dict[str, str]:
        """A group is followed by Location alone, everything else by either."""
        base = f"{self.server.url}/subscriptions/{self.server.world.subscription}"
        version = urlencode({"api-version": self._query["api-version"]})
        headers = {
            "Location": f"{base}/operationresults/{operation.id}?{version}",
            "Retry-After": "0",
        }
        if "/providers/" in path:
            where = f"{base}/providers/Microsoft.Compute/locations/x/operations/{operation.id}?{version}"
            headers["Azure-AsyncOperation"] = where
        return headers

    def _operation(self, operation: Operation, is_status: bool) -> _Answer:
        over, error = operation.over.is_set(), operation.error
        if not is_status:
            if error is not None:
                raise error
            return _Answer(
                200 if over else 202,
                None,
                {} if over else {"Location": self.server.url + self.path},
            )
        status = "InProgress" if not over else "Succeeded" if error is None else "Failed"
        body = {"name": operation.id, "status": status}
        return _Answer(200, body if error is None else {**body, **error.as_json()})

    def _listing(self, rest: str) -> list[dict[str, Any]] | None:
        """What a listing shows; None where the path is no listing's."""
        things = self.server.world.all()
        groups = [each for each in things if not each.type]
        whole = [each for each in things if each.type and each.type not in rules.PARTS]
        if rest == "/resourcegroups":
            return [shown.as_json(each) for each in self._filtered(groups)]
        if rest == "/resources":
            return [shown.generic(each) for each in self._filtered(whole)]
        if rest == "/providers/microsoft.compute/skus":
            return list(skus.rows(self.server.world.options, self._query.get("$filter", "")))
        found = re.fullmatch(r"(?:/resourcegroups/([^/]+))?/providers/([^/]+/[^/]+)", rest)
        if found is None:
            return None
        return [
            shown.as_json(each)
            for each in whole
            if each.type == found[2] and found[1] in (None, each.id.group.lower())
        ]

    def _filtered(self, things: Iterable[Thing]) -> list[Thing]:
        text = self._query.get("$filter")
        if not text:
            return list(things)
        found = _TAG.fullmatch(text)
        if found is None:
            raise ArmError(
                400,
                "InvalidFilterInQueryString",
                f"Invalid $filter '{text}' specified in the query string.",
            )
        value = found["value"] and found["value"].replace("''", "'")

        def meets(thing: Thing) -> bool:
            tags = thing.body.get("tags") or {}
            return found["name"] in tags and value in (None, tags[found["name"]])

        return [each for each in things if meets(each)]

    def _page(self, path: str, rows: list[dict[str, Any]]) -> _Answer:
        size, first = self.server.world.options.page_size, int(self._query.get("$skiptoken", "0"))
        page: dict[str, Any] = {"value": rows[first : first + size]}
        if len(rows) > first + size:
            asked = {**self._query, "$skiptoken": str(first + size)}
            page["nextLink"] = f"{self.server.url}{path}?{urlencode(asked)}"
        return _Answer(200, page)

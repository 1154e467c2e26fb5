"""One request as AWS's SDKs send it, and the answers that they read: EC2's form and XML, the JSON of the others."""

from __future__ import annotations

import io
import json
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode
from xml.sax.saxutils import escape

from tests.emulators.aws.faults import Refused

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
_SCOPE = re.compile(r"Credential=([^/,]+)/\d+/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request")


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        key: the id of the key that has signed it, "" without one.
        service: "ec2".
        region: that it is signed for.
        action: "RunInstances".
        fields: of the form, or of the JSON object.
    """

    key: str
    service: str
    region: str
    action: str
    fields: dict[str, Any]

    @classmethod
    def of(cls, environ: Environ) -> Self:
        """Reads it, and leaves it to be read once more."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        key, region, service = scope.groups() if scope else ("", "", "")
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        if target:
            fields = json.loads(body or b"{}")
            return cls(key, service, region, target.rpartition(".")[2], fields)
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        return cls(key, service, region, form.get("Action", ""), form)

    def having(self, **fields: str) -> Self:
        """The same with these fields."""
        return replace(self, fields={**self.fields, **fields})

    def listed(self, name: str) -> list[str]:
        """The members of a list, "InstanceId.1" and so on, in their order."""
        found = (
            (int(key.rpartition(".")[2]), value)
            for key, value in self.fields.items()
            if re.fullmatch(rf"{re.escape(name)}\.\d+", key)
        )
        return [value for _, value in sorted(found)]

    def environ(self, before: Environ) -> Environ:
        """What moto is to read of it."""
        body = urlencode(self.fields).encode()
        return {**before, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}


def answer(start: StartResponse, status: str, body: bytes, kind: str) -> Iterable[bytes]:
    """Sends it."""
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    start(status, [*headers, ("x-amzn-requestid", secrets.token_hex(16))])
    return [body]


def answer_json(start: StartResponse, values: Any) -> Iterable[bytes]:
    """As the services of JSON do."""
    return answer(start, "200 OK", json.dumps(values).encode(), "application/x-amz-json-1.1")


def answer_xml(start: StartResponse, action: str, inner: str) -> Iterable[bytes]:
    """As EC2 does."""
    name = f"{action}Response"
    text = f"<{name}><requestId>{secrets.token_hex(16)}</requestId>{inner}</{name}>"
    return answer(start, "200 OK", text.encode(), "text/xml")


def refuse(start: StartResponse, asked: Asked, refused: Refused) -> Iterable[bytes]:
    """An error, in the way of its service."""
    status = f"{refused.status} Refused"
    if asked.service != "ec2":
        body = json.dumps({"__type": refused.code, "message": refused.message}).encode()
        return answer(start, status, body, "application/x-amz-json-1.1")
    error = (
        f"<Error><Code>{refused.code}</Code><Message>{escape(refused.message)}</Message></Error>"
    )
    text = f"<Response><Errors>{error}</Errors><RequestID>{secrets.token_hex(16)}</RequestID></Response>"
    return answer(start, status, text.encode(), "text/xml")

"""HTTP without a client library's opinions: one request, one answer, nothing retried, nothing hidden."""

from __future__ import annotations

import base64
import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.emulators.lambda_cloud import Emulator


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.content)

    @property
    def data(self) -> Any:
        """The payload of a success."""
        assert self.status == 200, self.content
        return self.json["data"]

    @property
    def refused(self) -> tuple[int, str]:
        """Status and code of an error, whose envelope must be as described."""
        error = self.json["error"]
        assert set(self.json) == {"error"}
        assert {"code", "message"} <= set(error) <= {"code", "message", "suggestion"}
        return self.status, error["code"]


class Client:
    """Asks one emulator."""

    def __init__(self, cloud: Emulator) -> None:
        self.cloud = cloud
        self._url = urlsplit(cloud.url)

    def ask(
        self, method: str, path: str, body: Any = None, *, authorization: str | None = "bearer"
    ) -> Answer:
        """Sends a request with the account's key, or with another header in its place, or with none."""
        headers = {}
        if authorization == "bearer":
            authorization = f"Bearer {self.cloud.api_key}"
        if authorization is not None:
            headers["Authorization"] = authorization
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        assert self._url.hostname is not None
        connection = http.client.HTTPConnection(self._url.hostname, self._url.port, timeout=20)
        try:
            connection.request(method, self._url.path + path, content, headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.headers), answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        """GET."""
        return self.ask("GET", path)

    def post(self, path: str, body: Any) -> Answer:
        """POST."""
        return self.ask("POST", path, body)

    def delete(self, path: str) -> Answer:
        """DELETE."""
        return self.ask("DELETE", path)

    def launch(self, **changed: Any) -> Answer:
        """A launch that is right but for what is changed; None leaves a field out."""
        wanted = {
            "region_name": "us-east-1",
            "instance_type_name": "gpu_1x_a10",
            "ssh_key_names": ["key"],
        } | changed
        body = {name: value for name, value in wanted.items() if value is not None}
        return self.post("/instance-operations/launch", body)

    def launched(self, **changed: Any) -> str:
        """The id of an instance that was launched."""
        (id,) = self.launch(**changed).data["instance_ids"]
        return str(id)

    def terminate(self, *ids: str) -> Answer:
        """Ends instances."""
        return self.post("/instance-operations/terminate", {"instance_ids": list(ids)})

    def status(self, id: str) -> str:
        """Of an instance."""
        return str(self.get(f"/instances/{id}").data["status"])

    def add_key(self, name: str = "key") -> str:
        """The id of a new SSH key."""
        return str(self.post("/ssh-keys", {"name": name, "public_key": public_key()}).data["id"])


def basic(text: str) -> str:
    """The header that `curl -u` makes."""
    return f"Basic {base64.b64encode(text.encode()).decode()}"


def public_key() -> str:
    """A new one, of which nobody has the other half."""
    key = Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

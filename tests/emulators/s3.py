"""S3 on loopback: moto's own server, in a process of its own.

Who asks is not looked at unless `demand_credentials` is on; then each request has to be signed by a key that IAM knows, and it knows
none here, so that every one is refused.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import requests

KEY_ID, KEY = "AKIADAYFLYEXAMPLE000", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
# What nobody has signed is an anonymous request, which may not see what is private; who has signed is not looked at.
_SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=administrator/20260101/us-east-1/s3/aws4_request,"
    " SignedHeaders=host, Signature=0"
}


@dataclass(frozen=True)
class S3:
    """The running server, as its administrator has it.

    Attributes:
        port: on 127.0.0.1.
    """

    port: int

    @property
    def url(self) -> str:
        """What a client is told of it."""
        return f"http://127.0.0.1:{self.port}"

    def variables(self, port: int | None = None) -> dict[str, str]:
        """What a function gets as secrets to reach it, through another port where there is a proxy."""
        return {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port or self.port}",
        }

    def backend(self, bucket: str) -> str:
        """A bucket as the URL of the engine's state."""
        return (
            f"s3://{bucket}?endpoint=127.0.0.1:{self.port}&disableSSL=true&s3ForcePathStyle=true"
            "&region=us-east-1"
        )

    def make(self, bucket: str) -> str:
        """Creates a bucket, and gives its name."""
        self._ask("PUT", bucket).raise_for_status()
        return bucket

    def put(self, path: str, data: bytes) -> None:
        """Puts an object at "bucket/key"."""
        self._ask("PUT", path, data=data).raise_for_status()

    def get(self, path: str) -> bytes | None:
        """An object, None where there is none."""
        answer = self._ask("GET", path)
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        return answer.content

    def delete(self, path: str) -> None:
        """Deletes an object."""
        self._ask("DELETE", path).raise_for_status()

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """The keys below a prefix, without it."""
        answer = self._ask("GET", bucket, params={"list-type": "2", "prefix": prefix})
        answer.raise_for_status()
        tree = ElementTree.fromstring(answer.content)
        found = [each for each in tree.iter() if each.tag.rpartition("}")[2] == "Key"]
        names = [each.text or "" for each in found]
        return [name.removeprefix(prefix) for name in names]

    def _ask(self, method: str, path: str, **more: Any) -> requests.Response:
        return requests.request(method, f"{self.url}/{path}", headers=_SIGNED, timeout=30, **more)

    @contextlib.contextmanager
    def demand_credentials(self) -> Iterator[None]:
        """While it lasts every request has to be signed by a key that is known."""
        self._allow("0")
        try:
            yield
        finally:
            self._allow("inf")

    def _allow(self, unsigned: str) -> None:
        url = f"{self.url}/moto-api/reset-auth"
        requests.post(url, data=unsigned.encode(), timeout=10).raise_for_status()


@contextlib.contextmanager
def s3() -> Iterator[S3]:
    """A server for as long as the block lasts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(3000):
            if server.poll() is not None:
                raise RuntimeError("moto's server ended at once: is moto[s3,server] installed?")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.01)
        yield S3(port)
    finally:
        server.terminate()
        server.wait()

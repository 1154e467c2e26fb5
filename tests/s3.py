"""An S3 server on loopback, and what lies in it, read without any code of ours."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import requests

_WAIT_S = 60.0
# Whoever asks must say who they are; the server takes anybody.
CREDENTIALS: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Bucket:
    """One bucket of a running server."""

    endpoint: str
    name: str

    @property
    def backend(self) -> str:
        """As the URL of a state backend."""
        return (
            f"s3://{self.name}?endpoint={self.endpoint}&disableSSL=true&s3ForcePathStyle=true"
            "&region=us-east-1"
        )

    @property
    def objects(self) -> dict[str, bytes]:
        """Everything that is in it."""
        address = f"http://{self.endpoint}/{self.name}"
        listing = requests.get(address, params={"list-type": "2"}, timeout=10)
        listing.raise_for_status()
        keys = re.findall(r"<Key>(.*?)</Key>", listing.text)
        return {key: requests.get(f"{address}/{key}", timeout=10).content for key in keys}


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[Bucket]:
    """A server with an empty bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "s3.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    try:
        bucket = Bucket(f"127.0.0.1:{port}", "state")
        _make(bucket, server, log)
        yield bucket
    finally:
        server.terminate()
        server.wait(30)


def _make(bucket: Bucket, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            requests.put(f"http://{bucket.endpoint}/{bucket.name}", timeout=10).raise_for_status()
            return
        except requests.RequestException:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)

"""The file that says where the machines behind the API's ips really are."""

from __future__ import annotations

import json
import threading
from pathlib import Path


class PortMap:
    """A JSON object from instance id to host and port; readers see the old file or the new one, never a part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._ports: dict[str, int] = {}
        self._write()

    def add(self, id: str, port: int) -> None:
        """The machine's SSH server is, or will be, at this port of loopback."""
        with self._lock:
            self._ports[id] = port
            self._write()

    def drop(self, id: str) -> None:
        """It is nowhere any more."""
        with self._lock:
            self._ports.pop(id, None)
            self._write()

    def _write(self) -> None:
        aside = self.path.with_name(self.path.name + ".new")
        shown = {id: {"host": "127.0.0.1", "port": port} for id, port in self._ports.items()}
        aside.write_text(json.dumps(shown))
        aside.replace(self.path)

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
        self._places: dict[str, tuple[str, int]] = {}
        self._write()

    def add(self, id: str, host: str, port: int) -> None:
        """The machine's SSH server is, or will be, there."""
        with self._lock:
            self._places[id] = host, port
            self._write()

    def drop(self, id: str) -> None:
        """It is nowhere any more."""
        with self._lock:
            self._places.pop(id, None)
            self._write()

    def _write(self) -> None:
        aside = self.path.with_name(self.path.name + ".new")
        places = self._places.items()
        shown = {id: {"host": host, "port": port} for id, (host, port) in places}
        aside.write_text(json.dumps(shown))
        aside.replace(self.path)

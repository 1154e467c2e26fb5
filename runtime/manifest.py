"""Manifest: which files of a folder are here, with their digests: a line of JSON for each, written when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dayfly.runtime.tree import Entry, printable

_NAMED = 20
# So many lines more than are in use, and it is written anew: checkpoints come for as long as a function runs.
_SLACK = 10_000


class Manifest:
    """The lines of one folder; whoever comes after this process goes on from them.

    Attributes:
        lines: path, size, sha256, the size that was listed, modified_ns; by path, of the files that are here.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.lines: dict[str, dict[str, Any]] = {}

    def recall(self, folder: Path, entries: Iterable[Entry]) -> None:
        """Takes the lines of those files that are in `folder` as the machine has them now."""
        told: dict[str, dict[str, Any]] = {}
        count = 0
        with contextlib.suppress(FileNotFoundError):
            for line in self._file.read_bytes().splitlines():
                count += 1
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    values = json.loads(line)
                    told[values["path"]] = values
        self.lines = {}
        for entry in entries:
            values = told.get(entry.path, {})
            listed = (values.get("listed"), values.get("modified_ns"))
            same = listed == (entry.size, entry.modified_ns)
            if same and size_of(folder / entry.path) == values.get("size"):
                self.lines[entry.path] = values
        if count > 2 * len(self.lines) + _SLACK:
            self._write_anew()

    def _write_anew(self) -> None:
        aside = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        with open(aside, "w", opener=_private) as file:
            file.writelines(json.dumps(line) + "\n" for line in self.lines.values())
        aside.replace(self._file)

    def note(self, entry: Entry, size: int, digest: str) -> None:
        """A file is whole; `size` is less than was listed where it has become shorter."""
        line = {
            "path": entry.path,
            "size": size,
            "sha256": digest,
            "listed": entry.size,
            "modified_ns": entry.modified_ns,
        }
        self.lines[entry.path] = line
        with open(self._file, "a", opener=_private) as file:
            file.write(json.dumps(line) + "\n")

    @property
    def size(self) -> int:
        """Bytes of the files that are here."""
        return sum(int(line["size"]) for line in self.lines.values())

    def summary(self) -> dict[str, Any]:
        """What the journal keeps: the first files by name, and one digest of all lines."""
        lines = sorted(self.lines.values(), key=lambda line: str(line["path"]))
        whole = "".join(f"{line['sha256']}  {json.dumps(line['path'])}\n" for line in lines)
        named = [
            {"path": printable(line["path"]), "size": line["size"], "sha256": line["sha256"]}
            for line in lines[:_NAMED]
        ]
        return {
            "count": len(lines),
            "bytes": self.size,
            "digest": hashlib.sha256(whole.encode()).hexdigest(),
            "files": named,
        }


def size_of(file: Path) -> int | None:
    """Bytes of what is there, a link itself included; None where nothing is."""
    try:
        return file.lstat().st_size
    except OSError:
        return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

"""A file on its way from a machine to this computer: it goes on where it broke off, and is digested as it comes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dayfly.errors import Forged
from dayfly.runtime.agent import files
from dayfly.runtime.tree import Entry, printable


@dataclass
class Arriving:
    """What is here of a file, and its digest so far.

    Lifecycle: constructing does nothing, `open` reads what is here, `close` leaves it for the next one.
    """

    entry: Entry
    part: Path
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    descriptor: int = -1

    def open(self) -> None:
        """Goes on behind what is here."""
        self.descriptor = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        while data := os.pread(self.descriptor, 1 << 20, self.size):
            self.digest.update(data)
            self.size += len(data)

    def take(self, offset: int, data: bytes) -> None:
        """Takes the next bytes.

        Raises:
            Forged: they are not the next ones, or more than were announced.
        """
        if offset != self.size or offset + len(data) > self.entry.size:
            raise Forged(f"{printable(self.entry.path)}: bytes at {offset} that were not asked for")
        files.write_at(self.descriptor, offset, data)
        self.digest.update(data)
        self.size += len(data)

    def close(self) -> None:
        os.close(self.descriptor)

"""Entries of a folder on a machine, as the machine tells of them: which of them may be made on this computer."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dayfly.errors import Forged

_NAME_BYTES, _PATH_BYTES = 255, 4000
_KINDS = ("file", "folder", "link", "special", "unreadable")


@dataclass(frozen=True)
class Entry:
    """One entry below the folder.

    Attributes:
        path: from the folder, with "/"; bytes of a name that are no text stand in it as lone surrogates.
        kind: "file", "folder", "link", "special" (a pipe, a socket, a device) or "unreadable".
        size: bytes of a file.
        mode: permission bits.
        modified_ns: when its content was changed last, in nanoseconds of unix time.
        target: where a link leads; of what is unreadable, why.
    """

    path: str
    kind: str
    size: int
    mode: int
    modified_ns: int
    target: str

    @classmethod
    def of(cls, told: Any) -> Entry:
        """From the machine's own words.

        Raises:
            Forged: these are no words of an agent.
        """
        try:
            path, kind, size, mode, modified_ns, target = told
        except (TypeError, ValueError):
            raise Forged(f"{told!r:.200} is no entry of a folder") from None
        texts = all(isinstance(text, str) for text in (path, kind, target))
        numbers = all(type(number) is int for number in (size, mode, modified_ns))
        if not (texts and numbers and kind in _KINDS and path and size >= 0):
            raise Forged(f"{told!r:.200} is no entry of a folder")
        return cls(path, kind, size, mode, modified_ns, target)

    @property
    def spelling(self) -> str:
        """The same for two paths that some file systems take for one."""
        return unicodedata.normalize("NFC", self.path).casefold()

    @property
    def refusal(self) -> str:
        """Why it is not made here, whatever the machine says; "" where it may be."""
        if self.kind == "special":
            return "it is a pipe, a socket or a device"
        if self.kind == "unreadable":
            return f"it could not be read there: {printable(self.target)}"
        if not _stays_below(self.path.split("/")):
            return "its path leads out of the folder"
        if self.kind == "link" and not self._link_stays_below():
            return f"it is a link out of the folder, to {printable(self.target)}"
        return self._unwritable()

    def _unwritable(self) -> str:
        try:
            encoded = os.fsencode(self.path)
        except UnicodeEncodeError:
            return "its name cannot be written on this computer"
        if len(encoded) > _PATH_BYTES or any(len(n) > _NAME_BYTES for n in encoded.split(b"/")):
            return "its name is too long"
        return ""

    def _link_stays_below(self) -> bool:
        """Whether it leads to a place below the folder, whatever other links of which this is true lie on the way.

        "..", which leads up from wherever the link before it has led, may only stand in front.
        """
        steps = self.target.split("/")
        up = 0
        while up < len(steps) and steps[up] == "..":
            up += 1
        rest = [step for step in steps[up:] if step not in ("", ".")]
        if self.target.startswith("/") or "\0" in self.target or ".." in rest:
            return False
        return bool(self.target) and up <= self.path.count("/")


def _stays_below(steps: Sequence[str]) -> bool:
    return all(step not in ("", ".", "..") and "\0" not in step for step in steps)


def printable(text: str) -> str:
    """A name as it may be shown: nothing in it moves a terminal's cursor."""
    shown = text if len(text) <= 200 else f"{text[:200]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)

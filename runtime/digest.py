"""A digest of pickled code that is the same for the same code in another process."""

from __future__ import annotations

import hashlib
import pickletools

from dayfly.runtime.parts import Flat, flat

MAX_CANONICAL_BYTES = 1024 * 1024

_TEXT = frozenset(
    {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}
)
_LAYOUT = frozenset({"PROTO", "FRAME", "STOP"})


class Digest:
    """A file that digests the pickle written to it.

    Whether two equal strings are one object depends on how a module was loaded (compiled, or from its cache), and a
    pickle writes the second as a reference only in one of the cases. So references to strings are written out.
    Beyond MAX_CANONICAL_BYTES, where a large variable travels with the code, the bytes are digested as they are.

    Attributes:
        size: bytes that were written.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._held = bytearray()
        self._plain = False
        self.size = 0

    def write(self, data: Flat, /) -> int:
        view = flat(data)
        self.size += view.nbytes
        if self._plain:
            self._sha256.update(view)
            return view.nbytes
        self._held += view
        if len(self._held) > MAX_CANONICAL_BYTES:
            self._plain = True
            self._sha256.update(self._held)
            self._held.clear()
        return view.nbytes

    def hexdigest(self) -> str:
        """The digest of all that was written."""
        if not self._plain:
            self._sha256.update(_canonical(bytes(self._held)))
            self._plain = True
        return self._sha256.hexdigest()


def _canonical(pickled: bytes) -> bytes:
    lines: list[str] = []
    memo: list[str] = []
    objects = 0
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in _LAYOUT:
            continue
        if opcode.name == "MEMOIZE":
            text = lines[-1].startswith("text ")
            memo.append(lines[-1] if text else f"object {objects}")
            objects += not text
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            lines.append(memo[int(argument or 0)])
        elif opcode.name in _TEXT:
            lines.append(f"text {argument!r}")
        else:
            lines.append(f"{opcode.name} {argument!r}")
    return "\n".join(lines).encode()

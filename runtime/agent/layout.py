"""Where large buffers lie in the file of a pickle: so that they can be used there, without being read into memory once more.

It stays a pickle that anybody loads from a file. In front of such a buffer stands a constant that is dropped again, as long as it takes to
have the buffer begin where arrays begin in memory; and behind the pickle's end, where no unpickler looks, a table says where they are.
"""

from __future__ import annotations

import struct
from pickle import BINBYTES, BINBYTES8, BYTEARRAY8, POP, SHORT_BINBYTES, PickleBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Of a buffer; less is read as fast as it is found.
LEAST_BYTES = 1 << 20
# On a multiple of that a buffer begins: what the widest registers of a processor load at once.
ALIGNED_BYTES = 64
# What stands in front of a buffer: how many bytes tell its size, by what kind it is loaded as.
_SIZES = {BYTEARRAY8: 8, BINBYTES8: 8, BINBYTES: 4}
# At the very end: how many buffers there are. No pickle ends so: each ends with a dot.
_END = struct.Struct(">I12s")
_MARK = b".laid-out-1\n"
_START = struct.Struct(">Q")
END_BYTES = _END.size
# Packages whose buffers are taken by their own code; and what our own have in the place of a package.
_ARRAYS = frozenset(("numpy", "pyarrow"))
IS_ARRAY = "dayfly_array"


class Layout:
    """What a pickle is written to on its way to a file.

    Args:
        writer: takes the bytes.
        offset: how many bytes of the file are in front of the pickle.
    """

    def __init__(self, writer: Any, offset: int = 0) -> None:
        self._writer, self._offset = writer, offset
        self._starts: list[int] = []
        # A pickler writes what stands in front of a large buffer right before that.
        self._held = b""

    def write(self, data: Any) -> int:
        """Take the next bytes, and tell how many they were."""
        if type(data) is bytes and len(data) < LEAST_BYTES:
            self._pass_on(self._held)
            self._held = data
            return len(data)
        size = memoryview(data).nbytes
        if type(data) is PickleBuffer and size >= LEAST_BYTES and _is_array(data):
            self._align(size)
        self._pass_on(self._held)
        self._held = b""
        self._pass_on(data)
        return size

    def end(self) -> None:
        """Write the table, if there is anything to be said; to be called once, behind the pickle."""
        self._pass_on(self._held)
        self._held = b""
        if not self._starts:
            return
        # Counted from the end: whatever is put in front of it all, that is where they are.
        end = self._offset + len(self._starts) * _START.size + END_BYTES
        table = b"".join(_START.pack(end - start) for start in self._starts)
        self._pass_on(table + _END.pack(len(self._starts), _MARK))

    def _align(self, size: int) -> None:
        heads = [self._held[-length:] for length in (9, 5)]
        head = next(
            (head for head in heads if head_of(head) == head and size_in(head) == size), b""
        )
        if not head:
            return  # Not what picklers are known to write: it is read as any other then.
        self._pass_on(self._held[: -len(head)])
        self._held = head
        pad = -(self._offset + len(head)) % ALIGNED_BYTES
        if pad:
            # The shortest constant that is dropped again has three bytes.
            pad += 0 if pad >= 3 else ALIGNED_BYTES
            filling = bytes(pad - 3)
            self._pass_on(SHORT_BINBYTES + bytes([len(filling)]) + filling + POP)
        self._starts.append(self._offset)

    def _pass_on(self, data: Any) -> None:
        if data:
            self._writer.write(data)
            self._offset += memoryview(data).nbytes


def aligned(line: bytes, offset: int = 0) -> bytes:
    """Give a line of JSON with spaces and its end, so that a pickle behind it is laid out as if it began the file."""
    return line + b" " * (-(offset + len(line) + 1) % ALIGNED_BYTES) + b"\n"


def head_of(data: Any) -> bytes:
    """Give what stands in front of a buffer, if that is what these bytes begin with; nothing where they do not."""
    width = _SIZES.get(bytes(data[:1]), 0)
    head = bytes(data[: 1 + width])
    return head if width and len(head) == 1 + width else b""


def size_in(head: bytes) -> int:
    """How many bytes follow it."""
    return int.from_bytes(head[1:], "little")


def ends_laid_out(end: bytes) -> bool:
    """Whether there is a table in a file, by its last `END_BYTES`."""
    return end.endswith(_MARK)


def starts_in(file: memoryview) -> tuple[list[int], int]:
    """Read the table of a whole file.

    Returns:
        Where the buffers' heads begin, in their order, and where the pickle ends; nothing where it has no room there.
    """
    count, _ = _END.unpack(file[-END_BYTES:])
    began = len(file) - END_BYTES - count * _START.size
    if began < 0:
        return [], len(file)
    table = file[began : len(file) - END_BYTES]
    return [len(file) - back for (back,) in _START.iter_unpack(table)], began


def _is_array(buffer: PickleBuffer) -> bool:
    """Tell whether what takes it is known to take any buffer: a class of the user's may count on bytes, or on a bytearray."""
    with memoryview(buffer) as view:
        owner = view.obj
    return hasattr(owner, IS_ARRAY) or type(owner).__module__.partition(".")[0] in _ARRAYS

"""A pickle whose large buffers are used where they lie in its file: nobody reads gigabytes to have them in memory twice."""

from __future__ import annotations

import os
import sys
from io import BytesIO

from .layout import (
    ALIGNED_BYTES,
    END_BYTES,
    LEAST_BYTES,
    ends_laid_out,
    head_of,
    size_in,
    starts_in,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What is not in a buffer of its own is read. More of it than that, and all is: it would have to be cut out of what it lies in.
_MOST_BESIDE_BYTES = 16 << 20
# A file keeps its room for as long as a buffer is used, also when it has no name any more: so many times that must be free.
_ROOM_LEFT = 8
# File systems of this computer alone: what another one may take away under us ends us with SIGBUS.
_OWN = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs")
)


def in_place(file: Any) -> tuple[Any, list[memoryview]]:
    """Give what an unpickler is to be given for an open file, which stands at the beginning of a pickle that ends with it.

    Returns:
        The pickle and its buffers, which belong to their reader alone: what is changed in them is not changed in the file, and they stay
        when the file is removed. Where they cannot be had so, the file itself as it is, and none.
    """
    if type(file) is BytesIO:
        return file, []  # It is in memory already.
    descriptor = file.fileno()
    size = os.fstat(descriptor).st_size
    if size < LEAST_BYTES:
        return file, []
    end = os.pread(descriptor, END_BYTES, size - END_BYTES)
    if not (ends_laid_out(end) and _is_own(descriptor) and _has_room(descriptor, size)):
        return file, []
    mapping = _mapped(descriptor, size)
    taken = None if mapping is None else _taken_apart(mapping, file.tell())
    return (file, []) if taken is None else taken


def _taken_apart(mapping: Any, began: int) -> tuple[Any, list[memoryview]] | None:
    from pickle import BYTEARRAY8, NEXT_BUFFER, READONLY_BUFFER

    view = memoryview(mapping)
    starts, end = starts_in(view)
    pieces: list[Any] = []
    buffers: list[memoryview] = []
    for start in starts:
        if start < began:
            return None
        head = head_of(view[start : start + 9])
        data = start + len(head)
        after = data + size_in(head)
        if not head or after > end or data % ALIGNED_BYTES:
            return None
        pieces += [view[began:start], NEXT_BUFFER]
        pieces += [] if head[:1] == BYTEARRAY8 else [READONLY_BUFFER]
        buffers.append(_part(mapping, data, after - data))
        began = after
    pieces.append(view[began:end])
    if not buffers or sum(map(len, pieces)) > _MOST_BESIDE_BYTES:
        return None
    return BytesIO(b"".join(pieces)), buffers


def _part(mapping: Any, offset: int, size: int) -> memoryview:
    """Give a part whose owner, for whoever asks a view for that, has these bytes and no others."""
    from ctypes import c_ubyte
    from pickle import PickleBuffer

    return PickleBuffer((c_ubyte * size).from_buffer(mapping, offset)).raw()


def _is_own(descriptor: int) -> bool:
    """Tell whether the file is known to be on a disk of this computer, or in its memory."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}") as told:
            number = next(line.split()[1] for line in told if line.startswith("mnt_id:"))
        with open("/proc/self/mountinfo", errors="replace") as mounts:
            for mount in mounts:
                front, _, rest = mount.partition(" - ")
                if front.split(" ", 1)[0] == number:
                    return rest.split(" ", 1)[0] in _OWN
    except (OSError, StopIteration):  # No Linux.
        pass
    return False


def _has_room(descriptor: int, size: int) -> bool:
    disk = os.fstatvfs(descriptor)
    return disk.f_bavail * disk.f_frsize >= _ROOM_LEFT * size


def _mapped(descriptor: int, size: int) -> Any:
    """Map a file for this process alone; None where that cannot be.

    `mmap` by itself keeps a descriptor for each, of which there are few: so it maps nothing, and the file comes in the place of that. Who
    has the memory is in C then, too, and gives it back when nothing refers to it, and not when a finalizer happens to be called.
    """
    if sys.maxsize < 1 << 32:
        return None  # There is little room for it.
    try:
        from ctypes import CDLL, addressof, c_int, c_long, c_size_t, c_ubyte, c_void_p
        from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap

        place = CDLL(None).mmap
        held = mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS, PROT_READ | PROT_WRITE)
    except (ImportError, OSError, AttributeError):  # A Python without `ctypes`; no room.
        return None
    fixed = 0x10  # MAP_FIXED, but where that is what the other is: on Alpha and PA-RISC.
    if fixed == MAP_ANONYMOUS:
        return None
    place.restype = c_void_p
    place.argtypes = (c_void_p, c_size_t, c_int, c_int, c_int, c_long)
    address = addressof(c_ubyte.from_buffer(held))
    taken = place(address, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | fixed, descriptor, 0)
    return held if taken == address else None

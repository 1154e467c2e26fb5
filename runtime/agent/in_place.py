"""A pickle whose large buffers are used where they lie in its file: nobody reads gigabytes to have them in memory twice."""

from __future__ import annotations

import os
import sys

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
# File systems of this computer alone. What another one may remove from under us ends us with SIGBUS.
_OWN = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs")
)


def in_place(file: Any) -> tuple[Any, list[memoryview]]:
    """Give what an unpickler is to be given for an open file, which stands at the beginning of a pickle that ends with it.

    Returns:
        The pickle and its buffers, which belong to their reader alone: what is changed in them is not changed in the file, and they stay
        when the file is removed. Where they cannot be had so, the file itself as it is, and none.
    """
    try:
        descriptor = file.fileno()
    except OSError:  # It is in memory already.
        return file, []
    status = os.fstat(descriptor)
    if status.st_size < LEAST_BYTES:
        return file, []
    end = os.pread(descriptor, END_BYTES, status.st_size - END_BYTES)
    if not ends_laid_out(end) or not _is_own(status.st_dev):
        return file, []
    view = _mapped(descriptor, status.st_size)
    taken = None if view is None else _taken_apart(view, file.tell())
    return (file, []) if taken is None else taken


def _taken_apart(view: memoryview, began: int) -> tuple[Any, list[memoryview]] | None:
    from io import BytesIO
    from pickle import BYTEARRAY8, NEXT_BUFFER, READONLY_BUFFER

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
        buffers.append(view[data:after])
        began = after
    pieces.append(view[began:end])
    if not buffers or sum(map(len, pieces)) > _MOST_BESIDE_BYTES:
        return None
    return BytesIO(b"".join(pieces)), buffers


def _is_own(device: int) -> bool:
    """Tell whether it is known to be a file system of this computer alone."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", errors="replace") as mounts:
            for mount in mounts:
                front, _, rest = mount.partition(" - ")
                if front.split(" ", 3)[2] == number:
                    return rest.split(" ", 1)[0] in _OWN
    except OSError:  # No Linux.
        pass
    return False


def _mapped(descriptor: int, size: int) -> memoryview | None:
    """Map a file for this process alone; `mmap` of the standard library keeps a descriptor for each, of which there are few."""
    from ctypes import CDLL, c_int, c_long, c_size_t, c_ubyte, c_void_p
    from mmap import MAP_PRIVATE, PROT_READ, PROT_WRITE
    from pickle import PickleBuffer

    if sys.maxsize < 1 << 32:
        return None  # There is little room for it.
    libc = CDLL(None)
    libc.mmap.restype = c_void_p
    libc.mmap.argtypes = (c_void_p, c_size_t, c_int, c_int, c_int, c_long)
    place = libc.mmap(None, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor, 0)
    if place == c_void_p(-1).value:
        return None
    array: Any = (c_ubyte * size).from_address(place)
    # Whoever has a part of the view has this, too.
    array.mapping = _Mapping(libc, place, size)
    return PickleBuffer(array).raw()


class _Mapping:
    """Memory that is given back with this."""

    def __init__(self, libc: Any, place: int, size: int) -> None:
        from ctypes import c_size_t, c_void_p

        self._end = libc.munmap, c_void_p(place), c_size_t(size)

    def __del__(self) -> None:
        unmap, place, size = self._end
        unmap(place, size)

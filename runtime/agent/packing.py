"""How parts of a content are packed for a line that is slow, with what both ends have in their standard library.

Each part by itself, so that any of them can be sent again; what is digested and kept is the plain content.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Below this a part is not worth the words about it.
LEAST_BYTES = 4096


def codecs() -> list[str]:
    """Give the names of those that this Python has, the best first."""
    if sys.version_info >= (3, 14):
        from importlib.util import find_spec

        if find_spec("_zstd"):
            return ["zstd", "zlib"]
    return ["zlib"]


def pack(codec: str, data: bytes | memoryview) -> bytes:
    """Pack one part, at the level of which the fastest lines still gain."""
    if sys.version_info >= (3, 14) and codec == "zstd":
        from compression import zstd

        return bytes(zstd.compress(data, 1))
    from zlib import compress

    return compress(data, 1)


def unpack(codec: str, data: bytes | memoryview, size: int) -> bytes:
    """Give one part as it was.

    Args:
        codec: one of `codecs`.
        data: what `pack` made.
        size: of the part; no more than that is ever made of it.

    Raises:
        ValueError: it is not a part of that size.
    """
    # One byte more than there may be: so the end is seen, too.
    try:
        if sys.version_info >= (3, 14) and codec == "zstd":
            from compression import zstd

            unpacking: Any = zstd.ZstdDecompressor()
            plain = bytes(unpacking.decompress(data, size + 1))
        elif codec == "zlib":
            from zlib import decompressobj

            unpacking = decompressobj()
            plain = bytes(unpacking.decompress(data, size + 1))
        else:
            raise ValueError(f"nothing is packed by {codec!r}")
    except ValueError:
        raise
    except Exception as error:  # noqa: BLE001 - zlib.error and zstd.ZstdError have nothing in common
        raise ValueError(f"what arrived cannot be unpacked: {error}") from None
    if len(plain) != size or not unpacking.eof or unpacking.unused_data:
        raise ValueError(f"what arrived is no part of {size} bytes")
    return plain


def timed_pack(
    codec: str, data: bytes | memoryview, clock: Callable[[], float]
) -> tuple[bytes, float]:
    """Pack one part, and tell how many seconds that took."""
    began = clock()
    made = pack(codec, data)
    return made, clock() - began

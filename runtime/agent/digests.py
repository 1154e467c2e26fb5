"""SHA-256 of what is small, without OpenSSL: loading that takes longer than the first frames of a session, and all of theirs are small."""

from __future__ import annotations

import sys
from _operator import _compare_digest as is_same

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    if sys.version_info >= (3, 12):
        from _sha2 import sha256 as _own_sha256
    else:
        from _sha256 import sha256 as _own_sha256  # type: ignore[import-not-found]
except ImportError:  # A Python that is made without its own.
    from hashlib import sha256 as _own_sha256

__all__ = ["code_of", "digest_of", "is_same", "new_sha256", "sha256_of"]

# Of more than that OpenSSL, which has the processor's own instructions for it, is worth loading.
_SMALL_BYTES = 16 << 10
_BLOCK_BYTES = 64
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


def new_sha256(data: bytes | memoryview = b"") -> Any:
    """Give a digest that takes more, however much that will be."""
    from hashlib import sha256

    return sha256(data)


def sha256_of(data: bytes | memoryview) -> bytes:
    small = len(data) <= _SMALL_BYTES and "_hashlib" not in sys.modules
    digest: bytes = (_own_sha256(data) if small else new_sha256(data)).digest()
    return digest


def digest_of(data: bytes | memoryview) -> str:
    return sha256_of(data).hex()


def code_of(key: bytes, data: bytes) -> bytes:
    """Give the HMAC-SHA256 (RFC 2104) of something small, with a key of one block at most."""
    if "_hashlib" in sys.modules or len(key) > _BLOCK_BYTES:
        import hmac

        return hmac.digest(key, data, "sha256")
    block = key.ljust(_BLOCK_BYTES, b"\0")
    inner = _own_sha256(block.translate(_INNER) + data).digest()
    code: bytes = _own_sha256(block.translate(_OUTER) + inner).digest()
    return code

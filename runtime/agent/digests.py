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

# Of more than that OpenSSL, which has the processor's own instructions for it, is worth loading; and where it is loaded, asking.
_SMALL_BYTES, _TINY_BYTES = 16 << 10, 256
_BLOCK_BYTES = 64
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


def new_sha256(data: bytes | memoryview = b"") -> Any:
    """Give a digest that takes more, however much that will be."""
    from hashlib import sha256

    return sha256(data)


def sha256_of(data: bytes | memoryview) -> bytes:
    most = _TINY_BYTES if "_hashlib" in sys.modules else _SMALL_BYTES
    digest: bytes = (_own_sha256(data) if len(data) <= most else new_sha256(data)).digest()
    return digest


def digest_of(data: bytes | memoryview) -> str:
    return sha256_of(data).hex()


def code_of(key: bytes, data: bytes) -> bytes:
    """Give the HMAC-SHA256 (RFC 2104) of something small."""
    inner, outer = _keyed.get(key) or _keyed_by(key)
    inner, outer = inner.copy(), outer.copy()
    inner.update(data)
    outer.update(inner.digest())
    code: bytes = outer.digest()
    return code


# What an HMAC has made of a key before there is any data: half of its work, and there are few keys. OpenSSL would take twice as long
# for all of it.
_keyed: dict[bytes, tuple[Any, Any]] = {}
_KEYS_MOST = 64


def _keyed_by(key: bytes) -> tuple[Any, Any]:
    if len(_keyed) >= _KEYS_MOST:
        _keyed.clear()
    block = (sha256_of(key) if len(key) > _BLOCK_BYTES else key).ljust(_BLOCK_BYTES, b"\0")
    keyed = _own_sha256(block.translate(_INNER)), _own_sha256(block.translate(_OUTER))
    _keyed[key] = keyed
    return keyed

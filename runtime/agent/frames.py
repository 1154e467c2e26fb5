"""The frames of every channel: sealed for one run and one place in it, or not taken at all."""

from __future__ import annotations

import struct

from .digests import code_of, is_same, new_sha256, sha256_of
from .json_text import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

TASK_SEQ = 0
RESULT_SEQ = 1
_MAGIC = b"DFLY"
_VERSION = 1
_HEAD = struct.Struct(
    ">4sB16sQQ32s"
)  # magic, version, run id, sequence, payload length, SHA-256 of the payload
HEADER_BYTES = _HEAD.size + 32
FRAME_BYTES_MAX = 16 << 20
CHUNK_BYTES = 256 << 10
CREDIT_BYTES = 8 << 20
OPENING_BYTES = 64


class FrameError(ValueError):
    """Bytes that are not an authentic frame of this run in this place; nothing of them may be used."""


def header_of(key: bytes, run_id: str, seq: int, length: int, digest: bytes) -> bytes:
    head = _HEAD.pack(_MAGIC, _VERSION, bytes.fromhex(run_id), seq, length, digest)
    return head + code_of(key, head)


def seal(key: bytes, run_id: str, seq: int, payload: bytes) -> bytes:
    """Make the frame that only a holder of `key` can make, for this run and this place in the sequence."""
    return header_of(key, run_id, seq, len(payload), sha256_of(payload)) + payload


def open_header(key: bytes, run_id: str, seq: int, header: bytes) -> tuple[int, bytes]:
    """Check a header.

    Returns:
        The length and the SHA-256 that its payload must have.

    Raises:
        FrameError: it is truncated, of another run or place, or not made with `key`.
    """
    if len(header) != HEADER_BYTES:
        raise FrameError(f"truncated: a header has {HEADER_BYTES} bytes, these are {len(header)}")
    head, code = header[: _HEAD.size], header[_HEAD.size :]
    if not is_same(code_of(key, head), code):
        raise FrameError("the authentication code does not fit this run's key")
    magic, version, run, number, length, digest = _HEAD.unpack(head)
    if (magic, version, run.hex(), number) != (_MAGIC, _VERSION, run_id, seq):
        raise FrameError(
            f"a frame of run {run.hex()} number {number}, expected {run_id} number {seq}"
        )
    return length, digest


def unseal(key: bytes, run_id: str, seq: int, sealed: bytes) -> bytes:
    """Give back the payload of a frame.

    Raises:
        FrameError: another magic, run or place, truncated or trailing bytes, or a wrong digest or code.
    """
    length, expected = open_header(key, run_id, seq, bytes(sealed[:HEADER_BYTES]))
    payload = sealed[HEADER_BYTES:]
    check_payload(len(payload), sha256_of(payload), length, expected)
    return payload


def check_payload(length: int, digest: bytes, expected_length: int, expected: bytes) -> None:
    """Compare what came with what the header says.

    Raises:
        FrameError: it is another.
    """
    if length != expected_length:
        raise FrameError(f"{length} bytes of payload, the header says {expected_length}")
    if digest != expected:
        raise FrameError("the payload's SHA-256 is not the header's")


def open_sealed(key: bytes, run_id: str, seq: int, path: str) -> Any:
    """Open a sealed file and hold all of it to the rules of `unseal`, without having it in memory.

    Returns:
        The open file, at the beginning of its payload: what is read from it is what was checked.

    Raises:
        FrameError: as `unseal`.
    """
    file = open(path, "rb")  # noqa: SIM115 - whoever asked for it closes it
    try:
        check_file(file, *open_header(key, run_id, seq, file.read(HEADER_BYTES)))
    except BaseException:
        file.close()
        raise
    return file


def check_file(file: Any, expected_length: int, expected: bytes) -> None:
    """Compare all that follows in an open file with what a header says, and leave the file where it was.

    Raises:
        FrameError: it is another.
    """
    begin, digest, length = file.tell(), new_sha256(), 0
    for chunk in iter(lambda: file.read(1 << 20), b""):
        digest.update(chunk)
        length += len(chunk)
    check_payload(length, digest.digest(), expected_length, expected)
    file.seek(begin)


def check_sealed_file(key: bytes, run_id: str, seq: int, path: str) -> None:
    """Apply the rules of `unseal` to a file.

    Raises:
        FrameError: as `unseal`.
    """
    open_sealed(key, run_id, seq, path).close()


def encode(head: Mapping[str, Any], body: bytes | memoryview = b"") -> bytes:
    """Put a message's JSON head and its bytes into one payload."""
    return joined(dumps(head).encode(), body)


def joined(head: bytes, body: bytes | memoryview = b"") -> bytes:
    """Put a message's head, which is JSON already, and its bytes into one payload."""
    return b"".join((struct.pack(">I", len(head)), head, body))


def decode(payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Take apart what `encode` made."""
    head, body = parted(payload)
    return loads(str(head, "utf-8")), body


def parted(payload: bytes) -> tuple[bytes, bytes]:
    """Take apart what `joined` made."""
    (length,) = struct.unpack_from(">I", payload)
    return payload[4 : 4 + length], payload[4 + length :]


def channel_keys(key: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    """Keys of one channel, to the machine and to the client: a frame of another channel or direction fits neither."""
    return code_of(key, b"to machine" + nonce), code_of(key, b"to client" + nonce)


def call_seq(number: int) -> int:
    """Where a call stands in the run's sequence."""
    return 2 * number


def call_result_seq(number: int) -> int:
    """Where the result of a call stands in the run's sequence."""
    return 2 * number + 1

"""Stands between sshd and the agent on the machine, and tampers with one frame on its way to the client.

Run by sshd as a forced command: `tampering.py PLAN`, a JSON file with what to do; standard library only.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_MARK = b"\0dayfly:"
_LENGTH_AT = 4 + 1 + 16 + 8
_HEADER_BYTES = 4 + 1 + 16 + 8 + 8 + 32 + 32


def frames(source: IO[bytes], sink: IO[bytes]) -> Iterator[bytes]:
    """Whole frames from the agent; what comes before the first is handed on as it is."""
    greeting = b""
    while _MARK not in greeting[:-1]:
        byte = source.read(1)
        if not byte:
            return
        sink.write(byte)
        sink.flush()
        greeting += byte
    while len(header := source.read(_HEADER_BYTES)) == _HEADER_BYTES:
        (length,) = struct.unpack_from(">Q", header, _LENGTH_AT)
        yield header + source.read(length)


def tampered(plan: dict[str, str], number: int, frame: bytes, last: bytes) -> bytes:
    """What goes out in the place of frame `number`."""
    if number != int(plan["frame"]):
        return frame
    Path(plan["done"]).touch()
    foreign = Path(plan["foreign"]).read_bytes()
    at = int(plan["at"]) % len(frame)
    return {
        "flipped": frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :],
        "truncated": frame[: max(1, at)],
        "replayed": (last or frame) + frame,
        "repeated": frame + frame,
        "dropped": b"",
        "forged": foreign,
        "cross-run": foreign,
        "longer": frame[:_LENGTH_AT] + struct.pack(">Q", 1 << 62) + frame[_LENGTH_AT + 8 :],
    }[plan["kind"]]


def main() -> None:
    """Runs the agent and passes on its frames."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    command = ["sh", "-c", os.environ["SSH_ORIGINAL_COMMAND"]]
    agent = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert agent.stdout is not None
    sink, last = sys.stdout.buffer, b""
    for number, frame in enumerate(frames(agent.stdout, sink)):
        if plan.get("record"):
            Path(plan["record"], str(number)).write_bytes(frame)
        sink.write(tampered(plan, number, frame, last) if plan.get("kind") else frame)
        sink.flush()
        last = frame
    agent.kill()


if __name__ == "__main__":
    main()

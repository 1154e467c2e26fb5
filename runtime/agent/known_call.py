"""A call of a warm run, from its order to the acknowledgement."""

from __future__ import annotations

import struct
import time

from .call_output import WARM_OUTPUT_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

WARM_INLINE_BYTES = 256 << 10
CALL_PREFIX = struct.Struct(">QQ")


class KnownCall:
    """A call, as the zygote knows it, from its arrival until its result is acknowledged."""

    def __init__(self, entry: Mapping[str, Any], sealed: bytes, after: int = 0) -> None:
        """It must not begin before the call `after` is known here, which is on another way; 0 is none."""
        self.after = after
        self.number: int = entry["n"]
        self.function: str = entry["function"]
        # Calls of one group, which is not 0, may be made by one process, one after the other.
        self.group: int = entry["group"]
        self.timeout_s: float | None = entry["timeout_s"]
        self.entry = {name: entry[name] for name in ("n", "size", "blob")}
        self.sealed = sealed
        self.arrived, self.given = time.monotonic(), 0.0
        self.printed = {1: bytearray(), 2: bytearray()}
        self.unwanted = False
        # The client has asked for its result, or has had it before it was known here.
        self.asked = self.acknowledged = False
        self.result: dict[str, Any] | None = None
        self.sealed_result = b""

    def keep(self, log: int, data: bytes) -> None:
        held = self.printed[log]
        held += data
        del held[:-WARM_OUTPUT_BYTES]

    def done(self, result: Mapping[str, Any], sealed: bytes) -> None:
        self.sealed = b""
        self.sealed_result = sealed
        self.result = {
            "n": self.number,
            "size": len(sealed),
            "file": bool(result.get("file")),
            "out": len(self.printed[1]),
            "err": len(self.printed[2]),
            "queued_s": (self.given or time.monotonic()) - self.arrived,
            "start_s": max(0.0, result["began"] - self.given) if "began" in result else 0.0,
            "took_s": result.get("took_s", 0.0),
        }

    def content(self) -> bytes:
        """What follows the result's entry on its way to the client."""
        return b"".join((self.sealed_result, self.printed[1], self.printed[2]))

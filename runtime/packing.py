"""Packing: whether parts of a content are packed on their way, which they are as long as that is measured to pay."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from dayfly.errors import Forged
from dayfly.runtime.agent import frames
from dayfly.runtime.agent import packing as agent_packing

# So much has to arrive plain before a line is known.
_MEASURED_BYTES = 1 << 20
# On a faster line nothing that both ends have could win; not even a trial is made there.
_FASTEST_BYTES_PER_S = 100e6
# Packed, a part has to be there in so much of the time; what gains less is not worth the processors' work.
_PAYS = 0.8
# After a part that did not gain, so many go plain, and each time twice as many.
_REST, _REST_MOST = 16, 256


class Line:
    """One direction of a link.

    Attributes:
        bytes_per_s: what it has carried; 0.0 as long as that is not known.
    """

    def __init__(self) -> None:
        self.bytes_per_s = 0.0


class Packing:
    """The parts of one content on one line.

    The line is measured by what has arrived in plain parts, each part by what packing it has taken and made of it: a content
    that cannot be packed costs one part of many, and nothing on a line that is fast.

    Args:
        codec: what both ends have; "" for nothing.
        line: what is known of the way.
        clock: seconds.
    """

    def __init__(
        self, codec: str, line: Line, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._codec, self._line, self._clock = codec, line, clock
        self._changing = threading.Lock()
        self._since: tuple[float, int] | None = None
        self._rest, self._resting = _REST, 0
        # Whether the last part that was packed has paid, and whether what comes of one is not known yet.
        self._proven = self._trying = False

    def arrived(self, have: int) -> None:
        """So many bytes are there, as whoever counts them says."""
        now = self._clock()
        with self._changing:
            if self._proven:
                # What arrives packed says nothing of how fast the line is.
                self._since = None
                return
            if self._since is None:
                self._since = now, have
                return
            began, before = self._since
            if have - before >= _MEASURED_BYTES and now > began:
                self._line.bytes_per_s = (have - before) / (now - began)
                self._since = now, have

    def wanted(self) -> str:
        """What the next part is to be packed by, "" where it is not."""
        if not self._codec or not 0.0 < self._line.bytes_per_s < _FASTEST_BYTES_PER_S:
            return ""
        with self._changing:
            if self._proven:
                return self._codec
            if self._resting:
                self._resting -= 1
            elif not self._trying:
                self._trying = True
                return self._codec
        return ""

    @property
    def trying(self) -> bool:
        """Whether what came of the last part is not known yet, and decides on the next ones."""
        return self._trying

    def wished(self) -> str:
        """As `wanted`, for whoever is told what to pack by until something else is said: a trial lasts until it is known."""
        return self._codec if self._trying else self.wanted()

    def came_of(self, plain: int, packed: int, took_s: float) -> bool:
        """Tell whether packing a part has paid; where it has not, the next ones go plain."""
        rate = self._line.bytes_per_s
        pays = took_s + packed / rate < _PAYS * plain / rate if rate else packed < plain
        with self._changing:
            if pays:
                self._proven, self._rest = True, _REST
            elif self._proven or self._trying:
                self._proven = False
                self._resting, self._rest = self._rest, min(self._rest * 2, _REST_MOST)
            self._trying = False
        return pays

    def packed(self, data: bytes | memoryview) -> tuple[str, bytes] | None:
        """A part as it is to be sent, with what it was packed by; None where it goes as it is."""
        if len(data) < agent_packing.LEAST_BYTES:
            return None
        codec = self.wanted()
        if not codec:
            return None
        made, took_s = agent_packing.timed_pack(codec, data, self._clock)
        return (codec, made) if self.came_of(len(data), len(made), took_s) else None

    def opened(self, told: dict[str, Any], data: bytes) -> bytes:
        """A part as it was, of which the machine has told how it was packed, or that it was not worth it.

        Raises:
            Forged: it is not what was told.
        """
        if "took_us" not in told:
            return data
        took_s = float(told["took_us"]) / 1e6
        if "codec" not in told:
            self.came_of(len(data), len(data), took_s)
            return data
        size = told.get("plain")
        if type(size) is not int or not 0 <= size <= frames.FRAME_BYTES_MAX:
            raise Forged(f"the machine sends a part of {size!r:.20} bytes")
        try:
            plain = agent_packing.unpack(str(told["codec"]), data, size)
        except ValueError as error:
            raise Forged(f"the machine sends what is no part of a content: {error}") from None
        self.came_of(size, len(data), took_s)
        return plain


def best(theirs: object) -> str:
    """The best that this computer has, too, of what a machine says it has; "" where there is nothing."""
    told = theirs if isinstance(theirs, list) else []
    return next((codec for codec in agent_packing.codecs() if codec in told), "")

"""A child of the zygote, as the zygote sees it."""

from __future__ import annotations

import os
import time

from .end_mark import EndMark
from .frames import decode
from .peer import Peer
from .shortcut import end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from .call_output import Printed
    from .known_call import KnownCall
    from .slate import Slate


class Child:
    """A forked process, seen from the zygote."""

    def __init__(
        self,
        pid: int,
        channel: Any,
        printed: tuple[Printed, Printed],
        device: str | None,
        slate: Slate | None,
        *,
        mark: EndMark,
    ) -> None:
        self.pid, self.peer, self.printed = pid, Peer(channel), printed
        # Where it may write down what need not be heard at once, and how many parcels have come of it otherwise.
        self._slate, self._heard = slate, 0
        # It relies on being looked at until then, and was when the last look began.
        self.looked_at_until = self.looked_at = -float("inf")
        # None is no place at all: a child that was forked ahead has one from its first call on.
        self.device = device
        self.function, self.group = "", 0
        self.given: list[KnownCall] = []
        self.idle_since = 0.0
        self.last = self.leaving = False
        # The one call that it was told to end, with the reason, and whether it was told to end whatever it does.
        self._ends, self._ends_all = None, False  # type: tuple[KnownCall, str] | None, bool
        self._mark = mark
        self.kill_at = float("inf")
        self.oom_before = 0
        # A copy of the connection by which a client's calls come straight to it, and whether it ever had one.
        self._shortcut: Any = None
        self.had_shortcut = False

    def lend(self, head: Mapping[str, Any], shortcut: Any) -> bool:
        """Hand a connection on to it; tell whether it has that now."""
        self.cut()
        if not self.peer.send_with(head, shortcut.fileno()):
            return False
        self._shortcut, self.had_shortcut = shortcut, True
        return True

    def cut(self) -> None:
        """Nothing more comes to it by the connection it had, whoever has a copy of that: what it has forked, too."""
        shortcut, self._shortcut = self._shortcut, None
        if shortcut is not None:
            end(shortcut)
            shortcut.close()

    def hear(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Give all that it has said and written down, in its order."""
        for head, body in self.peer.receive():
            yield from self.look()
            self._heard += 1
            self._look_on()
            yield head, body
        yield from self.look()

    def look(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Give what it has written down and nobody has heard yet, up to what it has said since and that has not come."""
        self.looked_at = time.monotonic()
        for payload in self._slate.take(self._heard) if self._slate is not None else ():
            self._look_on()
            yield decode(payload)

    def _look_on(self) -> None:
        if self._slate is not None:
            self.looked_at_until = time.monotonic() + self._slate.LOOKED_AT_S

    def relay(self, call: KnownCall | None, ends: Iterable[int], label: bytes) -> bool:
        pairs = zip(self.printed, ends)  # noqa: B905 - 3.8 has no strict
        return any([stream.relay(end, label, call) for stream, end in pairs])

    def end_call(self, call: KnownCall, why: str, grace_s: float) -> None:
        """Have it end one call: if that is still at work after the grace, it is killed."""
        self._ends = call, why
        self._tell_end(call.number, grace_s)

    def end_all(self, grace_s: float) -> None:
        """As `end_call`, whatever it does."""
        self._ends_all = True
        self._tell_end(EndMark.ALL, grace_s)

    def _tell_end(self, number: int, grace_s: float) -> None:
        import signal

        self._mark.put(number)
        self.kill_at = time.monotonic() + grace_s
        self.signal(signal.SIGTERM)

    def why_ended(self, call: KnownCall) -> str:
        """Why it was told to end that call; nothing where it was not."""
        if self._ends is not None and self._ends[0] is call:
            return self._ends[1]
        return "stopped" if self._ends_all else ""

    def spare(self, call: KnownCall) -> None:
        """A call has come to its own end: if that one was to end, and nothing else, the child goes on."""
        if self._ends is not None and self._ends[0] is call:
            self._ends = None
            if not self._ends_all:
                self.kill_at = float("inf")

    def signal(self, number: int) -> None:
        """To all that the call has started, but for what has left its group."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def ended(self) -> int | None:
        """Give the status that it ended with, and end what it has left in its group; None while it lives."""
        import signal

        if hasattr(os, "waitid"):
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            # Before it is reaped: until then nobody else can get the number of its group.
            self.signal(signal.SIGKILL)
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.signal(signal.SIGKILL)
        return status

    def close(self) -> None:
        """Let go of what is here of it; in a forked process, too, where that are copies."""
        if self._shortcut is not None:
            self._shortcut.close()
        self.peer.close()
        for stream in self.printed:
            stream.close()

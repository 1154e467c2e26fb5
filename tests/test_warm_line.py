"""The line of a warm run by itself: what becomes of calls when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dayfly.errors import RunFailed
from dayfly.runtime.warm_call import WarmCall
from dayfly.runtime.warm_line import Sent, WarmLine

RUN, KEY = "0" * 32, bytes(32)


def made() -> WarmLine:
    """One that has no link, so that nothing is sent."""
    return WarmLine(RUN, KEY, lambda _: Path("nowhere"))


def call(line: WarmLine, number: int) -> Sent:
    """A call that is as good as any."""
    handle: WarmCall[Any] = WarmCall(number, RUN, line.stop, 0.0)
    return Sent(handle, "f" * 64, b"")


def test_what_is_sent_behind_the_end_fails_as_what_was_open() -> None:
    """Whoever submits while the run ends must not wait for ever; the first reason stays."""
    line = made()
    early, late = call(line, 1), call(line, 2)
    line.send([early])
    assert line.over is None
    line.fail(why := RunFailed("it has ended"))
    line.fail(RunFailed("and once more"))
    line.send([late])
    assert early.call.exception(1) is why
    assert late.call.exception(1) is why
    assert (line.over, line.open_calls()) == (why, [])

"""A fork that does one thing and tells of it: what it sets in its interpreter is gone with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any


def told(doing: str, work: Callable[[], Any]) -> Any:
    """What a function gives that is called in a fork of this process.

    Args:
        doing: for people, "listing the resources".
        work: its value has to be plain JSON values.

    Raises:
        RuntimeError: it has failed; has its own error.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with os.fdopen(writing, "wb") as sink:
                sink.write(json.dumps(answer(work)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as source:
        text = source.read()
    _, status = os.waitpid(pid, 0)
    if not text:
        code = os.waitstatus_to_exitcode(status)
        raise RuntimeError(f"{doing} ended with {code} and without a word")
    answered: dict[str, Any] = json.loads(text)
    if "error" in answered:
        raise RuntimeError(answered["error"])
    return answered["value"]


def answer(work: Callable[[], Any]) -> dict[str, Any]:
    """What a function gives, or the error that it ends with, for whoever reads it in another process."""
    try:
        return {"value": work()}
    except BaseException as error:  # noqa: BLE001  # the process ends here, and with it whatever is not told
        return {"error": f"{type(error).__name__}: {error}"}

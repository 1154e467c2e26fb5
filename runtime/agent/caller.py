"""A call of the user's function, and its outcome."""

from __future__ import annotations

import os
import sys
import time

from .frames import HEADER_BYTES
from .in_place import in_place
from .json_text import dumps
from .layout import Layout
from .refusal import TEXT_CHARACTERS
from .tensors import dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import FrameType, TracebackType
    from typing import Any


class Stopping:
    """Turns the first SIGTERM into KeyboardInterrupt, so that `finally` and `with` of the function run."""

    def __init__(self, is_meant: Callable[[], bool] = lambda: True) -> None:
        """`is_meant` tells whether a signal is for what this process does just then; any other is not heard."""
        import signal

        self.asked, self._is_meant = False, is_meant
        self._pid = os.getpid()
        signal.signal(signal.SIGTERM, self._raise)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        import signal

        if (
            os.getpid() != self._pid
        ):  # A forked child of the function: it ends as if nobody had listened.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif not self.asked and self._is_meant():
            self.asked = True
            raise KeyboardInterrupt("the run was stopped")


class Caller:
    """Loads a function, calls it, and writes down what came of that: for a job of one call, and for each warm call."""

    def __init__(
        self,
        stopping: Stopping,
        gpus: Callable[[], tuple[list[str], str]],
        opened: Callable[[], Any],
    ) -> None:
        """`gpus` gives names and driver, `opened` the file that an outcome is written to."""
        self._stopping, self._gpus, self._opened = stopping, gpus, opened
        self._began = time.monotonic()

    @staticmethod
    def take_sources(sources: Mapping[str, str]) -> None:
        """Have tracebacks show the lines of files that are not here."""
        import linecache

        for name, text in sources.items():
            linecache.cache[name] = (len(text), None, text.splitlines(True), name)

    def load(self, imports: Iterable[str], pickled: Any) -> tuple[dict[str, Any] | None, Any]:
        """Unpickle from a file what is authentic; give it, or describe why it cannot be loaded, with the exception itself.

        A large buffer stays where it is in the file, or is read to where it stays: it is in memory once at most.
        """
        import pickle

        missing = [name for name in imports if name not in sys.modules and not _is_found(name)]
        if missing:
            return {"outcome": "missing_import", "modules": missing}, None
        try:
            stream, buffers = in_place(pickled)
            return None, pickle.load(stream, buffers=buffers)  # noqa: S301 - unsealed with this run's key
        except ModuleNotFoundError as error:
            text = self._traceback(error)
            return {"outcome": "missing_import", "modules": [error.name], "traceback": text}, None
        except Exception as error:  # noqa: BLE001 - whatever a class does when it is loaded is the user's to see
            return self._raised(error), error

    def call(
        self, function: Callable[..., Any], arguments: Iterable[Any], named: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        """Call the function, and describe what came of it together with the value or exception itself."""
        try:
            return {"outcome": "value"}, function(*arguments, **named)
        except BaseException as error:
            # Trainers turn the interrupt into an exit, or into an error of their own: the call is at its end all the same.
            if self._stopping.asked:
                self._let_checkpoint(function)
                if isinstance(error, KeyboardInterrupt):
                    raise
            if isinstance(error, SystemExit):
                return self._exited(error)
            return self._raised(error), error

    def _let_checkpoint(self, function: Any) -> None:
        """A callable that can keep its state is asked to, once its call has been interrupted."""
        from functools import partial

        while isinstance(function, partial):
            # A coroutine function is the argument of what awaits it.
            ours = getattr(function.func, "__name__", "") == "run_coroutine" and function.args
            function = function.args[0] if ours else function.func
        owner = getattr(function, "__self__", function)
        checkpoint = getattr(owner, "checkpoint", None)
        if not callable(checkpoint):
            return
        try:
            checkpoint()
        except Exception as error:  # noqa: BLE001 - its own trouble is the user's to see, and changes no end
            sys.stderr.write(self._traceback(error))

    def _exited(self, end: SystemExit) -> tuple[dict[str, Any], Any]:
        if end.code is None or (isinstance(end.code, int) and end.code == 0):
            return {"outcome": "value"}, None
        if isinstance(end.code, int):
            return {"outcome": "exited", "code": end.code, "text": str(end.code)}, None
        # As the interpreter does for sys.exit("message").
        text = str(end.code)
        sys.stderr.write(text + "\n")
        return {"outcome": "exited", "code": 1, "text": text[:TEXT_CHARACTERS]}, None

    def _raised(self, error: BaseException) -> dict[str, Any]:
        return {"outcome": "raised", "text": repr_of(error), "traceback": self._traceback(error)}

    @staticmethod
    def _traceback(error: BaseException | None) -> str:
        """Format it with causes and contexts, without the frames of this package."""
        import traceback

        here = os.path.dirname(__file__)
        if error is None:
            return ""
        trace: TracebackType | None = error.__traceback__
        while trace is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) == here:
            trace = trace.tb_next
        return "".join(traceback.format_exception(type(error), error, trace))

    def leave(self, outcome: dict[str, Any], value: Any) -> dict[str, Any]:
        """Write what came of it, and give its header."""
        said = self._said(outcome, value)
        if said.get("threads"):
            self._threads_run_on(", ".join(said["threads"]))
        if said["outcome"] in ("value", "raised"):
            if self._write(said, value):
                return said
            kind = "unpicklable_value" if said["outcome"] == "value" else "unpicklable_exception"
            reason = said["traceback"] or self._pickling_traceback
            what = {"outcome": kind, "text": repr_of(value), "traceback": reason}
            said = self._said({**outcome, **what}, value)
        self._write(said)
        return said

    def _said(self, outcome: dict[str, Any], value: Any) -> dict[str, Any]:
        """Give all that is said of an outcome."""
        return {**self._common(), "type": type_name(value), **outcome}

    _pickling_traceback = ""

    def _write(self, outcome: Mapping[str, Any], *values: Any) -> bool:
        """Write the result; tell whether the value, if one is given, could be pickled."""
        writer = self._opened()
        line = self._line(outcome)
        writer.write(line)
        layout = Layout(writer, HEADER_BYTES + len(line))
        try:
            for value in values:
                pickle_value(value, layout, check=outcome["outcome"] == "raised")
            layout.end()
        except Exception as error:  # noqa: BLE001 - pickling runs code of the user's classes
            self._pickling_traceback = self._traceback(error)
            writer.discard()
            return False
        writer.commit()
        return True

    def _line(self, said: Mapping[str, Any]) -> bytes:
        """Give what is said of an outcome as it stands in front of it."""
        return dumps(said).encode() + b"\n"

    def _common(self) -> dict[str, Any]:
        gpus, driver = self._gpus()
        return {
            "type": "",
            "text": "",
            "traceback": "",
            "modules": [],
            "code": 0,
            "threads": left_threads(),
            "provenance": {
                "host": os.uname().nodename,
                "pid": os.getpid(),
                "python": sys.version.split()[0],
                "gpu": gpus,
                "driver": driver,
            },
            "seconds": time.monotonic() - self._began,
            "peak_rss_bytes": peak_rss_bytes(),
        }

    def _threads_run_on(self, names: str) -> None:
        sys.stderr.write(
            f"dayfly: the function returned while threads were running, ended: {names}\n"
        )


def pickle_value(value: Any, writer: Any, check: bool) -> None:
    import pickle

    import cloudpickle

    if not check:
        dump(value, writer)
        return
    # An exception whose class wants arguments that it did not hand to its base pickles, and fails at loading.
    data = cloudpickle.dumps(value, protocol=5)
    if type(pickle.loads(data)) is not type(value):  # noqa: S301 - our own bytes of a moment ago
        raise TypeError(f"{type(value).__qualname__} does not survive pickling")
    writer.write(data)


def _is_found(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def left_threads() -> list[str]:
    """Give the names of those that would be waited for at the end of this process."""
    import threading

    return [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.daemon
    ]


def peak_rss_bytes() -> int:
    """Give the most memory that this process has had."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def repr_of(value: Any) -> str:
    try:
        return repr(value)[:TEXT_CHARACTERS]
    except Exception as error:  # noqa: BLE001 - a repr is the user's code too
        return f"<{type_name(value)}, whose repr raised {type(error).__name__}>"

"""The forked child that makes the calls."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import lru_cache
from io import BytesIO
from itertools import takewhile
from pickle import dumps as pickle_dumps

from .blobs import is_as_put
from .call_output import WARM_OUTPUT_BYTES
from .caller import Caller, Stopping, left_threads, peak_rss_bytes, type_name
from .digests import digest_of
from .frames import (
    FrameError,
    call_result_seq,
    call_seq,
    check_file,
    decode,
    encode,
    joined,
    open_header,
    parted,
    seal,
    unseal,
)
from .inbox import Inbox
from .json_text import dumps, loads
from .known_call import WARM_INLINE_BYTES
from .passing import receive_with
from .shortcut import Shortcut
from .spilling import Spilling
from .telling import Telling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from .call_book import CallBook
    from .end_mark import EndMark
    from .slate import Slate


# What is said of a value; `json` would take as long for it as all else that is done with it.
_VALUE = b'{"outcome": "value", "type": "%b", "text": "", "traceback": "", "load_s": %.6f, "peak_rss_bytes": %d}\n'
# What goes in front of the one result of a parcel; the same holds for that.
_TOLD = b'{"results": [{"n": %d, "size": %d, "file": false, "out": %d, "err": %d, "queued_s": 0.0, "took_s": %.6f}]}'


# Of what is small and has a form of its own in a pickle: the names of its types.
_ATOMS = {type(value): type_name(value).encode() for value in (None, 0, 0.0, False)}


class InChild(Caller):
    """A forked child's own side: calls one function after another until nothing more comes."""

    def __init__(
        self,
        book: CallBook,
        gpus: tuple[list[str], str],
        keeps: bool,
        channel: Any,
        slate: Slate | None,
        *,
        mark: EndMark,
    ) -> None:
        # The call that is at work, which a signal may be for; 0 is none.
        self._at_work, self._mark = 0, mark
        super().__init__(
            Stopping(lambda: mark.is_for(self._at_work)), lambda: gpus, self._opened_result
        )
        self._book, self._channel = book, channel
        self._zygote = Telling(channel, slate)
        self._pid = os.getpid()
        self._functions: dict[str, tuple[dict[str, Any] | None, Any]] = {}
        self._blobs = ""
        self._number = 0
        self._keeps = keeps
        # What writes an outcome down, and what came of that: all of it, or whether it lies in a file.
        self._writer: Spilling | None = None
        self._left = b"", False
        # The way of the client's own, the last call that came by it, and where the output of the one before ended.
        self._shortcut: Shortcut | None = None
        self._passed: list[int] = []
        self._straight, self._ends = 0, (0, 0)

    def work(self) -> int:
        """Call what arrives, and give the exit code of the process."""
        inbox = Inbox()
        while True:
            shortcut = self._shortcut
            try:
                straight = shortcut is not None and shortcut.is_next()
                came = shortcut.receive() if shortcut and straight else self._received(inbox)
            except KeyboardInterrupt:
                return 143
            if came is None and not straight:
                return 0
            if came is None:
                self._drop_shortcut()
            act = self._take_straight if straight else self._obey
            for payload in came or ():
                if not act(payload):
                    return 143 if self._stopping.asked else 0

    def _received(self, inbox: Inbox) -> list[bytes] | None:
        """Give what the zygote says; None at its end."""
        data, passed = receive_with(self._channel, 1 << 18)
        self._passed += passed
        return list(inbox.payloads(data)) if data else None

    def _obey(self, payload: bytes) -> bool:
        """Do what the zygote says; tell whether this child may be told more."""
        head, body = decode(payload)
        if "shortcut" in head:
            self._drop_shortcut()
            if head["shortcut"] is not None:
                self._take_shortcut(head)
            return True
        self._blobs = head["blobs"]
        if "load" in head:
            self._function(head["load"])
            return True
        return self._take(head, body)

    def _take_shortcut(self, head: Mapping[str, Any]) -> None:
        self._blobs = head["blobs"]
        self._set_device(head["device"])
        if not self._passed:
            return  # As many files are open here as may be: its calls come by the zygote.
        self._shortcut = Shortcut(self._passed.pop(0), head["shortcut"], self._channel)
        self._shortcut.tell(encode({"ready": True}))

    def _drop_shortcut(self) -> None:
        if self._shortcut is not None:
            self._shortcut.close()
            self._shortcut = None

    @staticmethod
    def _set_device(device: str) -> None:
        if device:
            os.environ["CUDA_VISIBLE_DEVICES"] = device

    def _take(self, head: Mapping[str, Any], body: bytes) -> bool:
        """Make the calls of one parcel; tell whether this child may be given more."""
        self._set_device(head["device"])
        offset = 0
        for entry in head["calls"]:
            sealed = body[offset : offset + entry["size"]]
            offset += entry["size"]
            # One that came straight as well, over a connection that broke, has been made.
            if entry["n"] != self._straight and not self._make(entry, sealed):
                return False
        return not head["last"]

    def _take_straight(self, payload: bytes) -> bool:
        """Make the one call that has come by the shortcut; the zygote must know of it before it begins."""
        head, body = parted(payload)
        entry = loads(str(head, "utf-8"))["calls"][0]
        if entry["function"] not in self._functions:
            self._send({"refer": entry}, body)
            return True
        # As the client has said it, without the call, which is given to nobody else from now on.
        self._zygote.note(joined(b'{"begun": %b}' % head))
        self._straight = entry["n"]
        return self._make(entry, body)

    def _make(self, entry: Mapping[str, Any], sealed: bytes) -> bool:
        self._number, self._began = entry["n"], time.monotonic()
        call = self._opened_call(entry["blob"], sealed)
        try:
            self._at_work = self._number
            if self._mark.is_for_it_alone(self._number):
                # The signal may have been here before the call was.
                os.kill(self._pid, signal.SIGTERM)
            outcome, value = self._outcome(call)
        except KeyboardInterrupt:
            if not self._stopping.asked:
                raise
            sys.stderr.write(self._traceback(sys.exc_info()[1]))
            return False
        if os.getpid() != self._pid:
            os._exit(0)  # A copy that the function has forked, and let return.
        self.leave(outcome, value)
        return self._report()

    def _opened_call(self, blob: str, sealed: bytes) -> Any:
        """Give what the call holds, checked; what is large is content by digest, which goes with its last reader."""
        book, seq = self._book, call_seq(self._number)
        if not blob:
            return BytesIO(unseal(book.key, book.run_id, seq, sealed))
        length, digest = open_header(book.key, book.run_id, seq, sealed)
        path = os.path.join(self._blobs, os.path.basename(blob))
        call = open(path, "rb")  # noqa: SIM115 - whoever reads it closes it
        os.unlink(path)
        # What is as it was put there had the digest that is its name; anything else is looked through.
        if digest.hex() != blob or not is_as_put(call.fileno(), length):
            check_file(call, length, digest)
        return call

    @staticmethod
    def _tell_data(head: Mapping[str, Any]) -> None:
        """Say where Data is, for what makes paths of it while the function or its arguments are loaded."""
        if "data" in head:
            os.environ["DAYFLY_DATA"] = dumps(head["data"])

    def _outcome(self, call: Any) -> tuple[dict[str, Any], Any]:
        with call:
            head = _head_of(call.readline())
            failure, function = self._function(head["function"])
            if failure is not None:
                return failure, function
            began = time.monotonic()
            self._tell_data(head)
            failure, loaded = self.load((), call)
            load_s = time.monotonic() - began
        outcome, value = (failure, loaded) if failure is not None else self.call(function, *loaded)
        return {**outcome, "load_s": load_s}, value

    def _function(self, digest: str) -> tuple[dict[str, Any] | None, Any]:
        """Give the function of that digest, loaded once."""
        if digest not in self._functions:
            began, last = time.monotonic(), next(reversed(sys.modules))
            path = os.path.join(self._blobs, os.path.basename(digest))
            with open(path, "rb", buffering=0) as file:
                content = file.read()
            if digest_of(content) != digest:
                raise FrameError("the function is not the one that was sent")
            head, _, pickled = content.partition(b"\n")
            header = loads(head)
            self.take_sources(header["sources"])
            self._tell_data(header)
            self._functions[digest] = self.load(header["imports"], BytesIO(pickled))
            if self._functions[digest][0] is None:
                self._tell_imports(digest, header["imports"], last, began)
        return self._functions[digest]

    def _tell_imports(self, digest: str, imports: Iterable[str], last: str, began: float) -> None:
        """Import what the function will, and tell the zygote of it where that took its time.

        What was imported before ends with `last`: to look at each of those would copy the pages that they lie in.
        """
        from importlib import import_module

        for name in imports:
            try:
                import_module(name)
            except Exception:  # noqa: BLE001, S112 - the function may do without it; if not, it will say so itself
                continue
        if time.monotonic() - began <= 0.01 or last not in sys.modules:
            return
        fresh = list(takewhile(lambda name: name != last, reversed(sys.modules)))
        new = [name for name in reversed(fresh) if _is_installed(name)]
        if new:
            safe = _is_alone() and not _touches_gpu()
            self._send({"loaded": digest, "modules": new, "safe": safe})

    def leave(self, outcome: dict[str, Any], value: Any) -> dict[str, Any]:
        """As any outcome's; a value that is small and has a form of its own is not written down piece by piece."""
        sealed = self._sealed_atom(outcome, value)
        if sealed:
            self._left = sealed, False
            return outcome
        said = super().leave(outcome, value)
        writer = self._writer
        assert writer is not None
        self._left = writer.sealed, writer.spilt
        return said

    def _sealed_atom(self, outcome: dict[str, Any], value: Any) -> bytes:
        """Give all that is left of it; nothing where it is another value, or another outcome, or is large after all."""
        name = _ATOMS.get(type(value))
        if name is None or outcome["outcome"] != "value" or not (self._keeps or _is_alone()):
            return b""
        line = _VALUE % (name, outcome["load_s"], peak_rss_bytes())
        content = line + pickle_dumps(value, protocol=5)
        if len(content) > WARM_INLINE_BYTES:
            return b""
        book = self._book
        return seal(book.key, book.run_id, call_result_seq(self._number), content)

    def _opened_result(self) -> Spilling:
        self._writer = Spilling(
            self._book.file(self._number),
            self._book.key,
            self._book.run_id,
            call_result_seq(self._number),
        )
        return self._writer

    def _said(self, outcome: dict[str, Any], value: Any) -> dict[str, Any]:
        """Of a value what its client looks at is enough."""
        if outcome["outcome"] != "value":
            return super()._said(outcome, value)
        named = {"type": type_name(value), "text": "", "traceback": ""}
        threads = {} if self._keeps or _is_alone() else {"threads": left_threads()}
        return {**outcome, **named, "peak_rss_bytes": peak_rss_bytes(), **threads}

    def _line(self, said: Mapping[str, Any]) -> bytes:
        """As any outcome's; that of a value is filled in, unless its type's name, or a thread, needs `json`."""
        name = said["type"]
        plain = name.isascii() and name.replace(".", "_").isidentifier()
        if not plain or said["outcome"] != "value" or said.get("threads"):
            return super()._line(said)
        return _VALUE % (name.encode(), said["load_s"], said["peak_rss_bytes"])

    def _report(self) -> bool:
        """Send the result; tell whether this process can be given another call."""
        sys.stdout.flush()
        sys.stderr.flush()
        # It is over: who wants it ended from now on is too late.
        self._at_work = 0
        sealed, spilt = self._left
        ends = os.fstat(1).st_size, os.fstat(2).st_size
        took_s = time.monotonic() - self._began
        told = None
        if self._number == self._straight and sealed:
            told = self._tell(took_s, sealed, ends)
        self._ends = ends
        clean = not self._stopping.asked and (self._keeps or _is_alone())
        head = {
            "n": self._number,
            "file": spilt,
            "out": ends[0],
            "err": ends[1],
            "clean": clean,
            "began": self._began,
            "took_s": took_s,
            "told": told,
        }
        if told is None:
            self._send(head, sealed)
        else:
            self._zygote.note(encode(head, sealed))
        return clean

    def _tell(self, took_s: float, sealed: bytes, ends: tuple[int, int]) -> int | None:
        """Send the client the result by the way on which the call has come, with what it has printed.

        Returns:
            The generation of the client that has been told; None where none was.
        """
        if self._shortcut is None:
            return None
        out = err = b""
        if ends != self._ends:
            out, err = _tail(1, self._ends[0], ends[0]), _tail(2, self._ends[1], ends[1])
        head = _TOLD % (self._number, len(sealed), len(out), len(err), took_s)
        told = self._shortcut.tell(joined(head, sealed + out + err))
        return self._shortcut.generation if told else None

    def _send(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        self._zygote.say(encode(head, body))

    def _threads_run_on(self, names: str) -> None:
        if not self._keeps:
            super()._threads_run_on(names)


def _tail(stream: int, start: int, end: int) -> bytes:
    """Give the end of what was printed between two places."""
    try:
        start = max(start, end - WARM_OUTPUT_BYTES)
        return os.pread(stream, end - start, start) if end > start else b""
    except OSError:
        return b""  # The function has led it elsewhere.


@lru_cache(maxsize=64)
def _head_of(line: bytes) -> dict[str, Any]:
    """Take apart what stands in front of a call's arguments, which is mostly what stood in front of the last one's."""
    head: dict[str, Any] = loads(line)
    return head


def _is_installed(name: str) -> bool:
    """Tell a module that comes from a file of this Python or of its environment from one that came with a function."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None) or ""
    return bool(os.path.isabs(origin) and origin.startswith((sys.prefix, sys.base_prefix)))


def _is_alone() -> bool:
    """Tell whether this process has one thread."""
    import threading

    return threading.active_count() == 1


def _touches_gpu() -> bool:
    try:
        held = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    except OSError:
        return False  # No such place, and on that system no such GPU.
    return any(path.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri")) for path in held)


def refresh_randomness() -> None:
    """Python's own generator sees to it by itself; without this each child would draw the same numbers from NumPy's."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()

"""The calls of a warm run that are known here."""

from __future__ import annotations

import os
import time

from .files import size_of
from .frames import HEADER_BYTES, RESULT_SEQ, call_result_seq, seal
from .json_text import dumps
from .known_call import CALL_PREFIX, KnownCall
from .sealed_writer import SealedWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .job_folder import JobFolder


class CallBook:
    """Which calls wait, which have a result, and which results the client has.

    Attributes:
        queue: those that nobody was given yet.
        run_ends: the run itself was told to end: a call that is stopped now was not the one that was meant.
        ready: those whose result is still to be sent to the client of now.
    """

    # An item of a map that takes no longer than this is given to a child together with the ones after it.
    TOGETHER_S, TOGETHER_MOST = 0.005, 64

    def __init__(self, job: JobFolder, key: bytes, run_id: str) -> None:
        self._job, self.key, self.run_id = job, key, run_id
        self.queue: list[KnownCall] = []
        self.ready: list[KnownCall] = []
        self.run_ends = False
        self._calls: dict[int, KnownCall] = {}
        self._acknowledged, self._acknowledged_to = set(), 0  # type: set[int], int
        self._usual_s: dict[str, float] = {}
        self._stopped_early = set()  # type: set[int]

    def file(self, number: int) -> str:
        """Where a result lies that is too large to be sent by itself."""
        return self._job.file(os.path.join("calls", f"{number}.sealed"))

    def take(self, entry: Mapping[str, Any], sealed: bytes, after: int = 0) -> None:
        """Take a call from the client, unless it came before; `after` as of KnownCall."""
        number = entry["n"]
        if number in self._calls or self._is_acknowledged(number):
            return
        call = self._calls[number] = KnownCall(entry, sealed, after)
        if number in self._stopped_early:
            self._stopped_early.remove(number)
            call.unwanted = True
            self.refuse(call, "stopped")
        elif self.queue and self.queue[0].after == number:
            self.queue.insert(0, call)
        else:
            self.queue.append(call)

    @property
    def may_begin(self) -> bool:
        """Whether a call waits, and not for another that was sent before it and is not here yet."""
        if not self.queue:
            return False
        after = self.queue[0].after
        return not after or after in self._calls or self._is_acknowledged(after)

    def begun(self, entry: Mapping[str, Any]) -> KnownCall:
        """A child has begun a call that came straight to it, unless it has it from here as well; give that call."""
        self.take(entry, b"")
        call = self._calls.get(entry["n"])
        if call is None:
            return KnownCall(entry, b"")  # Acknowledged: nobody waits for it.
        if call in self.queue:
            self.queue.remove(call)
        return call

    def _is_acknowledged(self, number: int) -> bool:
        return number <= self._acknowledged_to or number in self._acknowledged

    def ask_for(self, number: int) -> None:
        """The client wants the result of a call by way of the zygote, as soon as there is one."""
        call = self._calls.get(number)
        if call is not None:
            call.asked = True
            if call.result is not None and call not in self.ready:
                self.ready.append(call)

    def acknowledge(self, number: int) -> None:
        """The client has the result: it is forgotten."""
        if self._is_acknowledged(number):
            return
        call = self._calls.get(number)
        if call is not None and call.result is None:
            call.acknowledged = True
            return
        # One that came straight to a child may not be known here yet.
        if call is not None:
            del self._calls[number]
            if call.result and call.result["file"]:
                os.unlink(self.file(number))
        self._acknowledged.add(number)
        while self._acknowledged_to + 1 in self._acknowledged:
            self._acknowledged_to += 1
            self._acknowledged.remove(self._acknowledged_to)

    def stop(self, number: int) -> None:
        """The client does not want it any more; one that was given to a child is ended there."""
        call = self._calls.get(number)
        if call is None and not self._is_acknowledged(number):
            # It is on its way straight to a child.
            self._stopped_early.add(number)
        if call is None or call.result is not None:
            return
        call.unwanted = True
        if call in self.queue:
            self.queue.remove(call)
            self.refuse(call, "stopped")

    def finish(
        self, call: KnownCall, result: Mapping[str, Any], sealed: bytes, told: bool = False
    ) -> None:
        """Keep a result; it is sent from here unless the child has told the client of now."""
        call.done(result, sealed)
        if call.acknowledged:
            self.acknowledge(call.number)
        elif not told or call.asked:
            self.ready.append(call)

    def refuse(self, call: KnownCall, outcome: str, **more: Any) -> None:
        """Finish a call that has no result of its own; what its process had begun to write, or is not wanted, goes."""
        if outcome == "stopped" and self.run_ends and not call.unwanted:
            outcome = "ended"
        if call.given:
            for path in (self.file(call.number), self.file(call.number) + ".tmp"):
                try:
                    os.unlink(path)
                except OSError:
                    continue  # There is none.
        header = {"outcome": outcome, "type": "", "text": "", "traceback": "", **more}
        payload = dumps(header).encode() + b"\n"
        sealed = seal(self.key, self.run_id, call_result_seq(call.number), payload)
        self.finish(call, {"took_s": time.monotonic() - (call.given or call.arrived)}, sealed)

    def offer_all(self) -> None:
        """Another client is there: it gets every result that was not acknowledged."""
        self.ready = [call for call in self._calls.values() if call.result is not None]

    # -- the queue

    def took(self, function: str, seconds: float) -> None:
        """Learn how long a call of the function usually takes."""
        self._usual_s[function] = (self._usual_s.get(function, seconds) + seconds) / 2

    def put_back(self, calls: list[KnownCall]) -> None:
        """What was given and not begun comes before all that waits."""
        self.queue[:0] = calls

    def batch(self, slots: int) -> list[KnownCall]:
        """Take the next call from the queue, with those that follow where all of them together are short."""
        first = self.queue[0]
        usual_s = self._usual_s.get(first.function)
        most = 1
        if first.group and usual_s is not None:
            share = -(-len(self.queue) // slots)
            most = min(int(self.TOGETHER_S / max(usual_s, 1e-6)), self.TOGETHER_MOST, share)
        count = 1
        while count < min(most, len(self.queue)):
            call = self.queue[count]
            same = (call.group, call.function) == (first.group, first.function)
            if not same or call.timeout_s is not None:
                break
            count += 1
        if first.timeout_s is not None:
            count = 1
        calls, self.queue[:count] = self.queue[:count], []
        return calls

    # -- the end

    def give_up(self) -> None:
        """What has no result will not get one."""
        for call in list(self._calls.values()):
            if call.result is None:
                self.refuse(call, "died", signal=0, code=70, out_of_memory=False)

    def leave_results(self) -> None:
        """Leave what the client has not acknowledged in the result of the run, where an ended run's is looked for."""
        self.ready.clear()
        writer = SealedWriter(self._job.file("result.sealed"), self.key, self.run_id, RESULT_SEQ)
        header = {"outcome": "calls", "type": "", "text": "", "traceback": ""}
        try:
            writer.write(dumps(header).encode() + b"\n")
            for number, call in self._calls.items():
                if call.result is not None:
                    self._copy_result(writer, number, call)
            writer.commit()
        except BaseException:
            writer.discard()
            raise

    def _copy_result(self, writer: SealedWriter, number: int, call: KnownCall) -> None:
        if not (call.result or {})["file"]:
            payload = call.sealed_result[HEADER_BYTES:]
            writer.write(CALL_PREFIX.pack(number, len(payload)))
            writer.write(payload)
            return
        with open(self.file(number), "rb") as file:
            file.seek(HEADER_BYTES)
            writer.write(CALL_PREFIX.pack(number, size_of(self.file(number)) - HEADER_BYTES))
            for chunk in iter(lambda: file.read(1 << 20), b""):
                writer.write(chunk)

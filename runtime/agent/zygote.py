"""The zygote of a warm run: it has each call made in a forked child."""

from __future__ import annotations

import json
import os
import sys
import time

from .call_child import Child
from .call_output import Printed
from .facts import core_count
from .files import in_folder, size_of
from .frames import HEADER_BYTES, RESULT_SEQ, call_result_seq, seal
from .in_child import InChild, refresh_randomness
from .known_call import CALL_PREFIX, KnownCall
from .peer import PARCEL_BYTES, Peer
from .processes import end_process, oom_kills, volunteer_for_oom
from .sealed_writer import SealedWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType
    from typing import Any

    from .job_folder import JobFolder


class Zygote:
    """Has the calls of one warm run made, each in a forked child, and keeps their results for the client."""

    # An item of a map that takes no longer than this is given to a child together with the ones after it.
    TOGETHER_S, TOGETHER_MOST = 0.005, 64
    # For so long a process waits for the next item of its map.
    IDLE_S = 0.25
    # The first client has just started this, and comes.
    FIRST_S = 60.0

    def __init__(
        self,
        job: JobFolder,
        order: Mapping[str, Any],
        settings: Mapping[str, Any],
        gpus: Callable[[], tuple[list[str], str]],
    ) -> None:
        self.job, self.run_id = job, order["run_id"]
        self.key = bytes.fromhex(order["key"])
        self.gpus = gpus()
        self._settings = settings
        self._linger_s: float = settings["linger_s"]
        self._grace_s: float = settings["grace_s"]
        self._alone_s: float = max(self.FIRST_S, self._linger_s)
        self._keeps = settings["isolation"] == "process"
        self._free = self._places()
        self._slots = len(self._free)
        self._calls: dict[int, KnownCall] = {}
        self._queue: list[KnownCall] = []
        self._acknowledged, self._acknowledged_to = set(), 0  # type: set[int], int
        self._children: dict[int, Child] = {}
        self._spare: Child | None = None
        self._client: Peer | None = None
        self._peers = set()  # type: set[Peer]
        self._generation = -1
        self._blobs = self._loaded = ""
        self._alone_since = self._looked = self._moved = time.monotonic()
        self._usual_s: dict[str, float] = {}
        self._imported: set[str] = set()
        self._to_import: list[str] = []
        self._ready: list[KnownCall] = []
        self._closing = self._stopping = False
        self._counted, self._oom_count = -float("inf"), 0

    def _places(self) -> list[str]:
        """Give each slot's device; where slots are not GPUs they have none."""
        if self._settings["by"] == "gpu":
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = [str(number) for number in range(len(self.gpus[0]))]
            return [name for name in visible.split(",") if name] if visible is not None else names
        return [""] * (self._settings["slots"] or (1 if self._keeps else core_count()))

    # -- the loop

    def serve(self) -> int:
        """Take calls until there is an end of them; give the exit code of the process."""
        self._listen()
        self._fork_ahead()
        while not self._over():
            for key, events in self._selector.select(self._pause()):
                key.data(events)
            self._tend()
        self._end_children()
        self._leave_results()
        return 143 if self._stopping else 0

    def _listen(self) -> None:
        import selectors
        import socket

        os.mkdir(self.job.file("calls"), 0o700)
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        in_folder(self.job.path, lambda: self._listener.bind("zygote.tmp"))
        self._listener.listen(8)
        self._listener.setblocking(False)
        # Seen only once it answers.
        os.rename(self.job.file("zygote.tmp"), self.job.file("zygote"))
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        self._hear_signals()
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_signal)

    def _hear_signals(self) -> None:
        import signal

        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _on_signal(self, events: int) -> None:
        try:
            os.read(self._woken, 4096)
        except BlockingIOError:
            return

    @property
    def _busy(self) -> list[Child]:
        return [child for child in self._children.values() if child.given]

    def _over(self) -> bool:
        if self._closing or self._stopping:
            return not self._ready or self._client is None
        if self._client is not None or self._queue or self._busy:
            self._alone_since = time.monotonic()
        return time.monotonic() - self._alone_since >= self._alone_s

    def _pause(self) -> float:
        """How long nothing has to be looked at: a child's output is, the less often the longer it is silent."""
        now = time.monotonic()
        stuck = self._queue and not self._busy
        if self._ready or stuck or self._closing or self._stopping:
            return 0.05
        pause = 3600.0 if self._client is not None else self._alone_s
        for child in self._children.values():
            pause = min(pause, child.kill_at - now)
            if child.given:
                pause = min(pause, 0.005 if now - self._moved < 1.0 else 0.05)
            elif self._waits(child):
                pause = min(pause, child.idle_since + self.IDLE_S - now)
        return max(0.0, pause)

    def _tend(self) -> None:
        now = time.monotonic()
        look = now - self._looked >= 0.004
        if look:
            self._looked = now
        for child in list(self._children.values()):
            if look and child.given:
                self._relay(child)
            self._check_time(child, now)
            self._reap(child)
        self._start_queued()
        self._send_results()
        if self._to_import and not self._queue and not self._busy:
            self._import_ahead()
        self._fork_ahead()

    # -- the client

    def _accept(self, events: int) -> None:
        import selectors

        try:
            channel, _ = self._listener.accept()
        except BlockingIOError:
            return
        peer = Peer(channel)
        self._peers.add(peer)
        self._selector.register(
            channel, selectors.EVENT_READ, lambda events: self._on_client(peer, events)
        )

    def _watch(self, peer: Peer) -> None:
        """Wait for the other end to take more, too, where something is held back for it."""
        import selectors

        if peer.channel.fileno() < 0:
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.full else 0)
        key = self._selector.get_key(peer.channel)
        if key.events != wanted:
            self._selector.modify(peer.channel, wanted, key.data)

    def _on_client(self, peer: Peer, events: int) -> None:
        peer.flush()
        for head, body in peer.receive():
            if "generation" in head:
                self._attach(peer, head)
            elif peer is self._client:
                self._on_parcel(head, body)
        if peer.over:
            self._drop(peer)
        else:
            self._watch(peer)

    def _attach(self, peer: Peer, head: Mapping[str, Any]) -> None:
        """The latest client counts: what an earlier connection still holds of it must not come in after it."""
        if head["generation"] <= self._generation:
            self._drop(peer)
            return
        if self._client is not None:
            self._drop(self._client)
        self._client, self._generation, self._blobs = peer, head["generation"], head["blobs"]
        self._alone_s = self._linger_s
        peer.send({"hello": {"slots": self._slots, "pid": os.getpid()}})
        self._ready = [call for call in self._calls.values() if call.result is not None]

    def _drop(self, peer: Peer) -> None:
        if peer.channel.fileno() >= 0:
            self._selector.unregister(peer.channel)
            peer.close()
        self._peers.discard(peer)
        if peer is self._client:
            self._client, self._alone_since = None, time.monotonic()

    def _on_parcel(self, head: Mapping[str, Any], body: bytes) -> None:
        offset = 0
        for entry in head.get("calls", ()):
            self._on_call(entry, body[offset : offset + entry["size"]])
            offset += entry["size"]
        for number in head.get("stop", ()):
            self._stop_call(number)
        for number in head.get("ack", ()):
            self._acknowledge(number)
        self._closing = self._closing or bool(head.get("close"))

    def _on_call(self, entry: Mapping[str, Any], sealed: bytes) -> None:
        number = entry["n"]
        if number in self._calls or number <= self._acknowledged_to or number in self._acknowledged:
            return
        call = self._calls[number] = KnownCall(entry, sealed)
        self._queue.append(call)

    def _acknowledge(self, number: int) -> None:
        call = self._calls.get(number)
        if call is None or call.result is None:
            return
        del self._calls[number]
        if call.result["file"]:
            os.unlink(self.call_file(number))
        self._acknowledged.add(number)
        while self._acknowledged_to + 1 in self._acknowledged:
            self._acknowledged_to += 1
            self._acknowledged.remove(self._acknowledged_to)

    def call_file(self, number: int) -> str:
        """Where a result lies that is too large to be sent by itself."""
        return self.job.file(os.path.join("calls", f"{number}.sealed"))

    def _send_results(self) -> None:
        client = self._client
        if client is None:
            self._ready.clear()
            return
        while self._ready:
            size, entries, parts = 0, [], []
            while self._ready and size < PARCEL_BYTES:
                call = self._ready.pop(0)
                if call.result is not None:
                    entries.append(call.result)
                    parts.append(call.content())
                    size += len(parts[-1])
            client.send({"results": entries}, b"".join(parts))
        self._watch(client)

    def _finish(self, call: KnownCall, result: Mapping[str, Any], sealed: bytes) -> None:
        call.done(result, sealed)
        self._ready.append(call)

    def _refuse(self, call: KnownCall, outcome: str, **more: Any) -> None:
        """Finish a call that has no result of its own."""
        header = {"outcome": outcome, "type": "", "text": "", "traceback": "", **more}
        payload = json.dumps(header).encode() + b"\n"
        sealed = seal(self.key, self.run_id, call_result_seq(call.number), payload)
        self._finish(call, {"took_s": time.monotonic() - (call.given or call.arrived)}, sealed)

    # -- children

    def _start_queued(self) -> None:
        if self._closing or self._stopping:
            return
        while self._queue:
            child = self._child_for(self._queue[0])
            if child is None:
                return
            self._give(child)

    def _child_for(self, call: KnownCall) -> Child | None:
        """Give a child that may take it now: one that waits for more of the same function, else a new one in a free slot."""
        idle = [c for c in self._children.values() if not c.given and not c.last and not c.leaving]
        for child in idle:
            same = child.function == call.function
            if same and (self._keeps or (call.group and child.group == call.group)):
                return child
        for child in idle:
            self._dismiss(child)
        if not self._free:
            return None
        try:
            child = self._ahead(call.function) or self._fork()
        except OSError as error:
            self._not_forked(call, error)
            return None
        self._children[child.pid] = child
        child.device = self._free.pop(0)
        child.function, child.group = call.function, call.group
        return child

    def _not_forked(self, call: KnownCall, error: OSError) -> None:
        """Wait for what runs to make room; where nothing does, it is the call that fails, not the run."""
        if not self._busy:
            self._queue.remove(call)
            os.write(2, f"dayfly: no process for call {call.number}: {error}\n".encode())
            self._refuse(call, "died", signal=0, code=71, out_of_memory=False)

    def _give(self, child: Child) -> None:
        calls = self._batch(child)
        child.last = not (self._keeps or calls[0].group)
        child.given += calls
        now = time.monotonic()
        for call in calls:
            call.given = now
        head = {"blobs": self._blobs, "calls": [call.entry for call in calls], "last": child.last}
        child.peer.send({**head, "device": child.device}, b"".join(c.sealed for c in calls))
        self._watch(child.peer)
        self._loaded, self._moved = child.function, now

    def _batch(self, child: Child) -> list[KnownCall]:
        """Take the next call from the queue, with those that follow where all of them together are short."""
        first = self._queue[0]
        usual_s = self._usual_s.get(first.function)
        most = 1
        if first.group and usual_s is not None:
            share = -(-len(self._queue) // self._slots)
            most = min(int(self.TOGETHER_S / max(usual_s, 1e-6)), self.TOGETHER_MOST, share)
        count = 1
        while count < min(most, len(self._queue)):
            call = self._queue[count]
            same = (call.group, call.function) == (first.group, first.function)
            if not same or call.timeout_s is not None:
                break
            count += 1
        if first.timeout_s is not None:
            count = 1
        calls, self._queue[:count] = self._queue[:count], []
        return calls

    def _fork_ahead(self) -> None:
        """Have the next child ready before there is a call for it, with the function that was called last."""
        enough = self._spare is not None or (self._keeps and self._children)
        if enough or self._stopping or self._closing:
            return
        try:
            self._spare = self._fork()
        except OSError:
            return  # No memory or no room now; a call that needs one will tell.
        # What a GPU's place is must be known before anything that may look for it is loaded.
        if self._loaded and self._settings["by"] != "gpu":
            self._spare.function = self._loaded
            self._spare.peer.send({"blobs": self._blobs, "load": self._loaded})

    def _ahead(self, function: str) -> Child | None:
        """Give the child that was forked ahead, unless it has another function in it, or has ended."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        if spare.ended() is not None:
            self._forget_channel(spare)
            spare.close()
            return None
        if spare.function not in ("", function):
            self._children[spare.pid] = spare
            self._dismiss(spare)
            return None
        return spare

    def _fork(self) -> Child:
        import selectors
        import socket

        folder = self.job.file("calls")
        printed = (Printed(folder, 1), Printed(folder, 2))
        ours, theirs = socket.socketpair()
        try:
            pid = os.fork()
        except OSError:
            for each in (*printed, ours, theirs):
                each.close()
            raise
        if not pid:
            # The copy of the zygote must never go on as the zygote.
            try:
                ours.close()
                self._become_child(theirs, printed)
            finally:
                os._exit(70)
        theirs.close()
        self._give_group(pid)
        child = Child(pid, ours, printed, None)
        child.oom_before = self._oom_kills_of_late()
        self._selector.register(
            ours, selectors.EVENT_READ, lambda events: self._on_child(child, events)
        )
        return child

    @staticmethod
    def _give_group(pid: int) -> None:
        """It does so itself, too, whoever is first: its group must be there before it is sent a signal."""
        try:
            os.setpgid(pid, pid)
        except OSError:
            return

    def _oom_kills_of_late(self) -> int:
        """Reading the count takes a tenth of what a fork does, and one of a second ago tells as much."""
        now = time.monotonic()
        if now - self._counted >= 1.0:
            self._counted, self._oom_count = now, oom_kills()
        return self._oom_count

    def _become_child(self, channel: Any, printed: tuple[Printed, Printed]) -> None:
        import signal

        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        for target, stream in zip((1, 2), printed):  # noqa: B905 - 3.8 has no strict
            os.dup2(stream.child_end, target)
            stream.close()
        others = [*self._children.values(), *filter(None, [self._spare])]
        for child in others:
            child.close()
        for peer in self._peers:
            peer.close()
        self._selector.close()
        self._listener.close()
        volunteer_for_oom(700)
        refresh_randomness()
        code = 1
        try:
            code = InChild(self, channel).work()
        except BaseException:  # noqa: BLE001 - said on the call's stderr, and the zygote sees the code
            sys.excepthook(*sys.exc_info())
        end_process(code)

    def _on_child(self, child: Child, events: int) -> None:
        child.peer.flush()
        self._hear(child)
        if child.peer.over:
            # Its end is seen by its status; what it has forked may hold the other end for long.
            self._forget_channel(child)
        else:
            self._watch(child.peer)

    def _forget_channel(self, child: Child) -> None:
        if child.peer.channel.fileno() >= 0:
            self._selector.unregister(child.peer.channel)
            child.peer.close()

    def _hear(self, child: Child) -> None:
        for head, body in child.peer.receive():
            if "loaded" in head:
                self._on_loaded(head)
            elif child.given:
                self._on_result(child, head, body)

    def _on_result(self, child: Child, head: Mapping[str, Any], sealed: bytes) -> None:
        call = child.given.pop(0)
        label = self._label(call)
        child.relay(call, (head["out"], head["err"]), label)
        for stream in child.printed:
            stream.end_line(label)
        usual_s = self._usual_s.get(call.function, head["took_s"])
        self._usual_s[call.function] = (usual_s + head["took_s"]) / 2
        if child.why == "stopped" or call.unwanted:
            self._refuse(call, "stopped")
        else:
            self._finish(call, head, sealed)
        if not head["clean"]:
            child.leaving = True
            self._take_back(child)
        if child.last and self._settings["by"] != "gpu":
            # A GPU is free when its memory is: when the process has ended.
            self._leave_slot(child)
        child.idle_since = time.monotonic()

    def _dismiss(self, child: Child) -> None:
        """Let it end by itself: it has been given all that it will get."""
        import socket

        if not child.leaving:
            child.leaving = True
            if self._settings["by"] != "gpu":
                self._leave_slot(child)
            try:
                child.peer.channel.shutdown(socket.SHUT_WR)
            except OSError:
                return  # It has gone already.

    def _leave_slot(self, child: Child) -> None:
        if child.device is not None:
            self._free.append(child.device)
            child.device = None

    def _take_back(self, child: Child) -> None:
        """What it was given and has not begun goes to another."""
        self._queue[:0], child.given = child.given, []

    def _label(self, call: KnownCall) -> bytes:
        return f"[{call.number}] ".encode() if self._slots > 1 else b""

    def _relay(self, child: Child) -> None:
        # The sizes first: the result of each call that ended before these bytes were written is then on its way.
        sizes = [stream.size() for stream in child.printed]
        self._hear(child)
        if child.given and child.relay(child.given[0], sizes, self._label(child.given[0])):
            self._moved = time.monotonic()

    def _check_time(self, child: Child, now: float) -> None:
        import signal

        if now >= child.kill_at:
            child.signal(signal.SIGKILL)
            child.kill_at = now + 1.0
        call = child.given[0] if child.given else None
        if call is None:
            if self._waits(child) and now >= child.idle_since + self.IDLE_S:
                self._dismiss(child)
            return
        if child.why:
            return
        if call.unwanted:
            self._end_call(child, "stopped")
        elif call.timeout_s is not None and now >= call.given + call.timeout_s:
            self._end_call(child, "timeout")

    def _waits(self, child: Child) -> bool:
        """Whether it waits for the next call of its group, which may be on its way, or never come."""
        return not (child.given or child.last or child.leaving or self._keeps)

    def _stop_call(self, number: int) -> None:
        call = self._calls.get(number)
        if call is None or call.result is not None:
            return
        call.unwanted = True
        if call in self._queue:
            self._queue.remove(call)
            self._refuse(call, "stopped")

    def _end_call(self, child: Child, why: str) -> None:
        import signal

        child.why = child.why or why
        child.kill_at = time.monotonic() + self._grace_s
        child.signal(signal.SIGTERM)

    def _reap(self, child: Child) -> None:
        status = child.ended()
        if status is None:
            return
        del self._children[child.pid]
        self._hear(child)
        call = child.given[0] if child.given else None
        label = b"" if call is None else self._label(call)
        child.relay(call, [stream.size() for stream in child.printed], label)
        for stream in child.printed:
            stream.end_line(label)
        if call is not None:
            child.given.pop(0)
            self._died(child, call, status)
        self._take_back(child)
        self._leave_slot(child)
        self._forget_channel(child)
        child.close()

    def _died(self, child: Child, call: KnownCall, status: int) -> None:
        """Finish a call whose child has ended under it."""
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        if child.why or self._stopping:
            self._refuse(call, child.why or "stopped", timeout_s=call.timeout_s)
            return
        oom = signalled == 9 and oom_kills() > child.oom_before
        self._refuse(call, "died", signal=signalled, code=code, out_of_memory=oom)

    # -- importing ahead

    def _on_loaded(self, head: Mapping[str, Any]) -> None:
        if head["safe"]:
            self._to_import += [name for name in head["modules"] if name not in self._imported]

    def _import_ahead(self) -> None:
        """Import what a child had to import before it could call its function, so that the next ones have it.

        Only what a child has imported without harm: a crash, a thread or a GPU that was touched has stayed in it.
        """
        from importlib import import_module

        names, self._to_import = self._to_import, []
        for name in names:
            self._imported.add(name)
            try:
                import_module(name)
            except BaseException:  # noqa: BLE001, S112 - then it is the children's to import, and to tell
                continue
        # A module may have taken them for itself.
        self._hear_signals()
        if self._spare is not None:
            spare, self._spare = self._spare, None
            self._children[spare.pid] = spare
            self._dismiss(spare)

    # -- the end

    def _end_children(self) -> None:
        """Let each child end, the ones that are at work by their grace."""
        import signal

        children = [*self._children.values(), *filter(None, [self._spare])]
        for child in children:
            if child.given or self._stopping:
                self._end_call(child, "stopped")
            else:
                self._dismiss(child)
            self._children[child.pid] = child
        over = time.monotonic() + self._grace_s
        while self._children:
            self._selector.select(0.01)
            self._on_signal(0)
            for child in list(self._children.values()):
                if time.monotonic() > over:
                    child.signal(signal.SIGKILL)
                self._hear(child)
                self._reap(child)
        self._ready.clear()

    def _leave_results(self) -> None:
        """Leave what the client has not acknowledged in the result of the run, where an ended run's is looked for."""
        writer = SealedWriter(self.job.file("result.sealed"), self.key, self.run_id, RESULT_SEQ)
        header = {"outcome": "calls", "type": "", "text": "", "traceback": ""}
        writer.write(json.dumps(header).encode() + b"\n")
        for number, call in self._calls.items():
            if call.result is not None:
                self._copy_result(writer, number, call)
        writer.commit()

    def _copy_result(self, writer: SealedWriter, number: int, call: KnownCall) -> None:
        if not (call.result or {})["file"]:
            payload = call.sealed_result[HEADER_BYTES:]
            writer.write(CALL_PREFIX.pack(number, len(payload)))
            writer.write(payload)
            return
        with open(self.call_file(number), "rb") as file:
            file.seek(HEADER_BYTES)
            writer.write(CALL_PREFIX.pack(number, size_of(self.call_file(number)) - HEADER_BYTES))
            for chunk in iter(lambda: file.read(1 << 20), b""):
                writer.write(chunk)

"""The children of a zygote: who makes which call, and how each of them ends."""

from __future__ import annotations

import os
import time

from .facts import core_count, devices
from .forker import Forker
from .processes import oom_kills
from .slate import Slate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from selectors import BaseSelector
    from typing import Any

    from .call_book import CallBook
    from .call_child import Child
    from .end_mark import EndMark
    from .known_call import KnownCall


class Children:
    """Forked processes that make calls, as many at once as there are slots, and one more that is ready ahead.

    Attributes:
        ending: nothing new is begun: calls are stopped, or the last ones come to their ends.
        stopped: the run is, and each of them was told so with it: what ends from then on has ended of that.
        to_import: modules that a child has imported without harm, for the next ones to have.
        moved: when one of them was last given a call, began one or printed something; of the monotonic clock.
    """

    # For so long a process waits for the next item of its map.
    IDLE_S = 0.25
    # One that was killed may wait in a driver, or for a disk of the network, and never end: it is waited for half its grace
    # more, within these bounds, so that the results are left before whoever has stopped the run loses patience.
    UNENDED_S = (1.0, 30.0)

    def __init__(
        self,
        settings: Mapping[str, Any],
        gpus: int,
        folder: str,
        *,
        selector: BaseSelector,
        book: CallBook,
        work: Callable[[Any, Slate | None, EndMark], int],
    ) -> None:
        """Args:
        settings: of the run: "by", "slots", "isolation", "grace_s".
        gpus: how many the machine has.
        folder: where what they print lies, without a name.
        work: as of the Forker.
        """
        self._selector, self._book = selector, book
        self._by_gpu = settings["by"] == "gpu"
        self._keeps = settings["isolation"] == "process"
        self._grace_s: float = settings["grace_s"]
        self._free = self._places(settings["slots"], gpus)
        self.slots = len(self._free)
        slates = self.takes_shortcut
        self._forker = Forker(folder, selector, self._on_child, work, self._all, slates=slates)
        self._children: dict[int, Child] = {}
        self._spare: Child | None = None
        self._loaded = ""
        self._looked = self.moved = time.monotonic()
        self._imported: set[str] = set()
        self.to_import: list[str] = []
        self.ending = self.stopped = False
        # What the client of now has lent for the one that makes its calls, until there is such a one.
        self._generation = -1
        self._lent: tuple[Any, str] | None = None

    def _places(self, slots: int, gpus: int) -> list[str]:
        """Give each slot's device; where slots are not GPUs they have none."""
        if self._by_gpu:
            return devices(gpus)
        return [""] * (slots or (1 if self._keeps else core_count()))

    @property
    def takes_shortcut(self) -> bool:
        """Whether all calls are made by one process, to which they may come straight."""
        return self._keeps and self.slots == 1

    def attached(self, generation: int) -> None:
        """Another client counts from now on: what the former one had lent is no way any more."""
        self._generation = generation
        self.return_lent()
        for child in self._children.values():
            if child.had_shortcut and not child.leaving:
                child.cut()
                # Before it gets any call that the client sends once more.
                child.peer.send({"shortcut": None})

    def lend(self, shortcut: Any, blobs: str) -> None:
        """Have the client's calls come straight to the process that makes them, which tells what it begins."""
        self.return_lent()
        self._lent = shortcut, blobs
        if not self.takes_shortcut or self.ending:
            self.return_lent()
        for child in list(self._children.values()):
            self._pass_on(child)

    def return_lent(self) -> None:
        """Let go of what nobody has taken: the client sees its end; in a forked process, of the copy."""
        if self._lent is not None:
            self._lent[0].close()
            self._lent = None

    def _pass_on(self, child: Child) -> None:
        if self._lent is None or child.leaving or child.device is None:
            return
        shortcut, blobs = self._lent
        head = {"shortcut": self._generation, "blobs": blobs, "device": child.device}
        if child.lend(head, shortcut):
            self._lent = None
        else:
            # The client sees its end, and may lend another.
            self.return_lent()

    @property
    def busy(self) -> bool:
        """Whether any of them has a call."""
        return any(child.given for child in self._children.values())

    def _all(self) -> list[Child]:
        return [*self._children.values(), *filter(None, [self._spare])]

    def pause(self, most: float) -> float:
        """How long nothing has to be looked at: a child's output is, the less often the longer it is silent."""
        now = time.monotonic()
        for child in self._children.values():
            most = min(most, child.kill_at - now)
            if child.looked_at < child.looked_at_until:
                # Soon where another call waits for the end of the one that it makes.
                most = min(most, 0.001 if self._book.queue else Slate.LOOK_EVERY_S)
            if child.given:
                most = min(most, 0.005 if now - self.moved < 1.0 else 0.05)
            elif self._waits(child):
                most = min(most, child.idle_since + self.IDLE_S - now)
        return max(0.0, most)

    def tend(self) -> None:
        """Pass on what they print, end what is over its time, and see which have ended."""
        now = time.monotonic()
        look = now - self._looked >= 0.004
        if look:
            self._looked = now
        for child in list(self._children.values()):
            if look and child.given:
                self._relay(child)
            for head, body in child.look():
                self._on_word(child, head, body)
            self._check_time(child, now)
            self._reap(child)

    # -- who makes a call

    def start_queued(self, blobs: str) -> None:
        """Give out what waits, as far as there are slots.

        Args:
            blobs: the folder of content by digest.
        """
        while self._book.may_begin and not self.ending:
            child = self._child_for(self._book.queue[0])
            if child is None:
                return
            self._give(child, blobs)

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
            child = self._ahead(call.function) or self._forker.fork()
        except OSError as error:
            self._not_forked(call, error)
            return None
        self._children[child.pid] = child
        child.device = self._free.pop(0)
        child.function, child.group = call.function, call.group
        self._pass_on(child)
        return child

    def _not_forked(self, call: KnownCall, error: OSError) -> None:
        """Wait for what runs to make room; where nothing does, it is the call that fails, not the run."""
        if not self.busy:
            self._book.queue.remove(call)
            words = f"dayfly: no process for call {call.number}: {error}\n"
            self._forker.logs[1].write(words.encode())
            self._book.refuse(call, "died", signal=0, code=71, out_of_memory=False)

    def _give(self, child: Child, blobs: str) -> None:
        calls = self._book.batch(self.slots)
        child.last = not (self._keeps or calls[0].group)
        child.given += calls
        now = time.monotonic()
        for call in calls:
            call.given = now
        head = {"blobs": blobs, "calls": [call.entry for call in calls], "last": child.last}
        child.peer.send({**head, "device": child.device}, b"".join(c.sealed for c in calls))
        child.peer.watch(self._selector)
        self._loaded, self.moved = child.function, now

    def fork_ahead(self, blobs: str) -> None:
        """Have the next child ready before there is a call for it, with the function that was called last."""
        enough = self._spare is not None or (self._keeps and self._children)
        if enough or self.ending:
            return
        try:
            self._spare = self._forker.fork()
        except OSError:
            return  # No memory or no room now; a call that needs one will tell.
        # What a GPU's place is must be known before anything that may look for it is loaded.
        if self._loaded and not self._by_gpu:
            self._spare.function = self._loaded
            self._spare.peer.send({"blobs": blobs, "load": self._loaded})

    def _ahead(self, function: str) -> Child | None:
        """Give the child that was forked ahead, unless it has another function in it, or has ended."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        if spare.ended() is not None:
            spare.peer.forget(self._selector)
            spare.close()
            return None
        if spare.function not in ("", function):
            self._children[spare.pid] = spare
            self._dismiss(spare)
            return None
        return spare

    def renew_spare(self) -> None:
        """Let the one that is ready ahead go: the next one will have more in it."""
        if self._spare is not None:
            spare, self._spare = self._spare, None
            self._children[spare.pid] = spare
            self._dismiss(spare)

    # -- what it tells

    def _on_child(self, child: Child) -> None:
        child.peer.flush()
        self._hear(child)
        if child.peer.over:
            # Its end is seen by its status; what it has forked may hold the other end for long.
            child.peer.forget(self._selector)
        else:
            child.peer.watch(self._selector)

    def _hear(self, child: Child) -> None:
        for head, body in child.hear():
            self._on_word(child, head, body)

    def hear_all(self) -> None:
        """Learn what they have said before anything is made of it that they have not."""
        for child in self._all():
            try:
                self._hear(child)
            except Exception:  # noqa: BLE001, S112 - of the others there may still be something
                continue

    def _on_word(self, child: Child, head: Mapping[str, Any], body: bytes) -> None:
        if "loaded" in head:
            self._on_loaded(head)
        elif "refer" in head:
            self._book.take(head["refer"], body)
        elif "begun" in head:
            self._on_begun(child, head["begun"]["calls"][0])
        elif "n" in head and child.given:
            self._on_result(child, head, body)

    def _on_loaded(self, head: Mapping[str, Any]) -> None:
        if head["safe"]:
            new = [name for name in head["modules"] if name not in self._imported]
            self._imported.update(new)
            self.to_import += new

    def _on_begun(self, child: Child, entry: Mapping[str, Any]) -> None:
        """It makes a call that came straight to it; where it was given that as well, it is the same one."""
        call = self._book.begun(entry)
        if call in child.given:
            child.given.remove(call)
        child.given.insert(0, call)
        call.given = self.moved = time.monotonic()

    def _on_result(self, child: Child, head: Mapping[str, Any], sealed: bytes) -> None:
        call = child.given.pop(0)
        if child.given:
            # It has waited for this one.
            child.given[0].given = time.monotonic()
        label = self._label(call)
        child.relay(call, (head["out"], head["err"]), label)
        for stream in child.printed:
            stream.end_line(label)
        self._book.took(call.function, head["took_s"])
        if call.unwanted or child.why_ended(call) == "stopped":
            self._book.refuse(call, "stopped")
        else:
            self._book.finish(call, head, sealed, told=head["told"] == self._generation)
        if not head["clean"]:
            child.leaving = True
            self._take_back(child)
        else:
            child.spare(call)
        if child.last and not self._by_gpu:
            # A GPU is free when its memory is: when the process has ended.
            self._leave_slot(child)
        child.idle_since = time.monotonic()

    def _relay(self, child: Child) -> None:
        # The sizes first: the result of each call that ended before these bytes were written is then on its way.
        sizes = [stream.size() for stream in child.printed]
        self._hear(child)
        if child.given and child.relay(child.given[0], sizes, self._label(child.given[0])):
            self.moved = time.monotonic()

    def _label(self, call: KnownCall) -> bytes:
        return f"[{call.number}] ".encode() if self.slots > 1 else b""

    # -- how one ends

    def _dismiss(self, child: Child) -> None:
        """Let it end by itself: it has been given all that it will get."""
        import socket

        if not child.leaving:
            child.leaving = True
            child.cut()
            # What may come to it straight must not be begun by another as long as it lives.
            if not (self._by_gpu or child.had_shortcut):
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
        self._book.put_back(child.given)
        child.given = []

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
        if child.why_ended(call):
            return
        if call.unwanted:
            child.end_call(call, "stopped", self._grace_s)
        elif call.timeout_s is not None and now >= call.given + call.timeout_s:
            child.end_call(call, "timeout", self._grace_s)

    def _waits(self, child: Child) -> bool:
        """Whether it waits for the next call of its group, which may be on its way, or never come."""
        return not (child.given or child.last or child.leaving or self._keeps)

    def _reap(self, child: Child) -> None:
        status = child.ended()
        if status is None:
            return
        del self._children[child.pid]
        child.cut()
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
        child.peer.forget(self._selector)
        child.close()

    def _died(self, child: Child, call: KnownCall, status: int) -> None:
        """Finish a call whose child has ended under it."""
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        why = child.why_ended(call) or ("stopped" if self.stopped else "")
        if why:
            self._book.refuse(call, why, timeout_s=call.timeout_s)
            return
        oom = signalled == 9 and oom_kills() > child.oom_before
        self._book.refuse(call, "died", signal=signalled, code=code, out_of_memory=oom)

    def end_all(self, stopped: bool, turn: Callable[[], object]) -> None:
        """Let each child end, the ones that are at work by their grace.

        Args:
            stopped: also those that have nothing to do are told at once.
            turn: waits a moment for one of them.
        """
        import signal

        for child in self._all():
            # What has come to its end before is no call that was stopped; and of a call whose result the client has, the end
            # may not be known here yet.
            self._hear(child)
            if child.given or stopped:
                child.end_all(self._grace_s)
            else:
                self._dismiss(child)
            self._children[child.pid] = child
        over = time.monotonic() + self._grace_s
        least, most = self.UNENDED_S
        last = over + max(least, min(self._grace_s / 2, most))
        while self._children and time.monotonic() < last:
            turn()
            for child in list(self._children.values()):
                if time.monotonic() > over:
                    child.signal(signal.SIGKILL)
                self._hear(child)
                self._reap(child)
        for child in self._children.values():
            for call in child.given[:1]:
                why = child.why_ended(call) or "stopped"
                self._book.refuse(call, why, timeout_s=call.timeout_s)

"""Upload: one content on its way to a machine, through as many broken links as it takes."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol

from dayfly.errors import Forged
from dayfly.runtime.content import READ_BYTES, Content
from dayfly.runtime.packing import Packing
from dayfly.runtime.pieces import pieces_of
from dayfly.runtime.ssh.connection import Disconnected
from dayfly.runtime.ssh.lanes import UPWARD_WINDOW_BYTES
from dayfly.runtime.ssh.link import AgentRefused, Link

INLINE_BYTES = 256 << 10
# More than this is worth lanes of its own; and its digest takes so long that sending does not wait for it.
FRAMES_BYTES = 4 << 20
# A piece costs an order of its own; the more of them are on their way at once, the more are torn where a link breaks.
_PIECE_BYTES, _STRIPE_BYTES = READ_BYTES, 256 << 10


class _Way(Protocol):
    def put(self, of: int, offset: int, data: bytes | memoryview) -> None: ...

    def put_packed(self, of: int, offset: int, codec: str, data: bytes, size: int) -> None: ...


class _Frames:
    """The way through the link itself."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def put(self, of: int, offset: int, data: bytes | memoryview) -> None:
        self._link.post({"op": "piece", "id": 0, "of": of, "offset": offset}, data)

    def put_packed(self, of: int, offset: int, codec: str, data: bytes, size: int) -> None:
        piece = {"op": "piece", "id": 0, "of": of, "offset": offset, "codec": codec, "plain": size}
        self._link.post(piece, data)


class _Sending:
    """The pieces that the machine has not, handed out to threads that send them, one for each way."""

    def __init__(self, content: Content, link: Link, of: int) -> None:
        self._content, self._link, self._of = content, link, of
        self.packing = Packing(link.codec, link.upward)
        self._pieces: Iterator[tuple[int, int]] = iter(())
        self._giving = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._stopped = False
        self.failure: BaseException | None = None

    def start(self, ways: Sequence[_Way], gaps: Iterable[Sequence[int]]) -> None:
        """Send what is not there yet."""
        self._pieces = pieces_of(gaps, _PIECE_BYTES if len(ways) == 1 else _STRIPE_BYTES)
        self._threads = [
            threading.Thread(target=self._work, args=(way,), daemon=True) for way in ways
        ]
        for thread in self._threads:
            thread.start()

    def name(self) -> None:
        """Tell the machine the digest, as soon as it is known."""
        thread = threading.Thread(target=self._guarded, args=(self._name,), daemon=True)
        thread.start()

    def finish(self) -> None:
        """Hand out no further piece, and wait until nobody is at one."""
        with self._giving:
            self._stopped, self._pieces = True, iter(())
        for thread in self._threads:
            thread.join()

    def _work(self, way: _Way) -> None:
        self._guarded(lambda: self._send_pieces(way))

    def _send_pieces(self, way: _Way) -> None:
        read = self._content.reader()
        while True:
            with self._giving:
                piece = next(self._pieces, None)
            if piece is None:
                return
            start, end = piece
            data = read(start, end - start)
            packed = self.packing.packed(data)
            if packed is None:
                way.put(self._of, start, data)
            else:
                way.put_packed(self._of, start, *packed, size=end - start)

    def _name(self) -> None:
        digest = self._content.digest()
        self._link.post({"op": "named", "id": 0, "of": self._of, "digest": digest})

    def _guarded(self, work: Callable[[], None]) -> None:
        """Whoever waits for the machine's answer hears of what went wrong here, since the link breaks with it."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised where the answer is awaited
            if self._stopped:
                return
            if not isinstance(error, (Disconnected, Forged)):
                self.failure = error
            self._link.fail(Disconnected(f"the sending broke off: {error}"))


class Upload:
    """One content, brought to the machine by `send`, which may be called again where a link broke."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def send(self, link: Link, heard: Callable[[int], None]) -> None:
        """Bring all that the machine has not.

        Args:
            link: the way.
            heard: told how many bytes are there, whenever the machine has said so.

        Raises:
            Disconnected: the link broke; some of it is there.
            AgentRefused: the machine cannot take it.
            RunFailed: the content changed meanwhile.
        """
        content = self._content
        if content.size <= INLINE_BYTES:
            link.ask({"op": "put", "digest": content.digest()}, content.read(0, content.size))
            return
        try:
            self._receive(link, heard)
        except AgentRefused as refusal:
            if refusal.kind != "stale":
                raise
            # What was there under its name was not of it, and is gone now.
            self._receive(link, heard)

    def _receive(self, link: Link, heard: Callable[[int], None]) -> None:
        content, of = self._content, secrets.randbits(60)
        large = content.size > FRAMES_BYTES
        unknown = large and not content.digested
        digest = "" if unknown else content.digest()
        name = content.name if large else digest
        request = {"op": "receive", "of": of, "size": content.size, "name": name, "digest": digest}
        sending = _Sending(content, link, of)
        answers = link.stream(request)
        with ExitStack() as stack:
            lanes = stack.enter_context(link.lanes.taken(UPWARD_WINDOW_BYTES)) if large else []
            try:
                answer, _ = next(answers)
                if not answer.get("done"):
                    sending.start(lanes or [_Frames(link)], answer["gaps"])
                    if unknown:
                        sending.name()
                for answer, _ in answers:
                    sending.packing.arrived(answer["have"])
                    heard(answer["have"])
            except AgentRefused:
                raise  # It takes what is on its way, and throws it away.
            except BaseException as error:
                # Whoever is at a piece may have to wait for long; without the link nobody has.
                link.fail(Disconnected("the sending was broken off"))
                if sending.failure is not None and isinstance(error, (Disconnected, Forged)):
                    raise sending.failure from None
                raise
            finally:
                sending.finish()

"""Download: the sealed result on its way to this computer, through as many broken links as it takes."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

from dayfly.runtime.agent import arrival as agent_arrival
from dayfly.runtime.agent import files, frames
from dayfly.runtime.packing import Line, Packing
from dayfly.runtime.pieces import pieces_of
from dayfly.runtime.ssh.connection import Disconnected
from dayfly.runtime.ssh.lanes import DOWNWARD_WINDOW_BYTES, Lane
from dayfly.runtime.ssh.link import Link

# More than this is worth lanes of its own.
FRAMES_BYTES = 4 << 20
_PIECE_BYTES = 2 << 20
# Wanted at once on each lane: a little more than its window.
_PIECES_AHEAD = 10
_RECEIVE_BYTES, _READ_BYTES = 4 << 20, 4 << 20


class Download:
    """Writes it into a file and digests it on the way; `fetch` may be called again where a link broke."""

    def __init__(self, descriptor: int, call: int = 0) -> None:
        """Nothing is asked for yet.

        Args:
            descriptor: of an empty file, open for reading and writing, to which it goes.
            call: the number of a warm call; 0 is the run itself.
        """
        self._what = str(call) if call else "result"
        self._descriptor = descriptor
        self._arrival = agent_arrival.Arrival(0)
        self._packing = Packing("", Line())
        self._have = 0
        self._header, self._digest = b"", hashlib.sha256()

    def fetch(self, link: Link, heard: Callable[[], None]) -> None:
        """Bring all of it that is not here yet.

        Args:
            link: the way.
            heard: called whenever something has arrived.

        Raises:
            Disconnected: the link broke.
            AgentRefused: there is nothing to bring.
        """
        size = self._by_frames(link, heard, FRAMES_BYTES)
        if self._have == size:
            return
        with link.lanes.taken(DOWNWARD_WINDOW_BYTES) as lanes:
            if lanes:
                self._by_lanes(link, lanes, size, heard)
                return
        self._by_frames(link, heard, size)

    def check(self, key: bytes, run_id: str, seq: int) -> None:
        """See whether all of it is what was sealed for this place.

        Raises:
            FrameError: it is not.
        """
        length, digest = frames.open_header(key, run_id, seq, self._header)
        frames.check_payload(self._have - len(self._header), self._digest.digest(), length, digest)

    def _by_frames(self, link: Link, heard: Callable[[], None], most: int) -> int:
        """Give the size of all of it; it is brought unless more than `most` bytes of it are missing."""
        request = {"op": "get", "what": self._what, "offset": self._have, "most": most}
        for answer, data in link.stream(request):
            heard()
            if data:
                files.write_at(self._descriptor, answer["offset"], data)
                self._take_in(answer["offset"] + len(data))
        return int(answer["size"])

    def _by_lanes(
        self, link: Link, lanes: Sequence[Lane], size: int, heard: Callable[[], None]
    ) -> None:
        # What came before the last link broke is not asked for again.
        self._packing = Packing(link.codec, link.downward)
        (_, have), *later = self._arrival.ranges()
        arrival = self._arrival = agent_arrival.Arrival(size, [(0, max(have, self._have)), *later])
        pieces = list(pieces_of(arrival.gaps(), _PIECE_BYTES))

        def work(lane: Lane, mine: Sequence[tuple[int, int]]) -> None:
            try:
                self._receive(lane, mine, arrival)
            except Exception as error:  # noqa: BLE001 - raised where it is awaited
                arrival.fail(error)

        threads = [
            threading.Thread(target=work, args=(lane, pieces[number :: len(lanes)]), daemon=True)
            for number, lane in enumerate(lanes)
        ]
        for thread in threads:
            thread.start()
        try:
            while self._have < size:
                self._take_in(arrival.await_more(self._have))
                self._packing.arrived(self._have)
                heard()
        except BaseException:
            # A lane that is out of step is of no use any more, and without its link nobody waits for it.
            link.fail(Disconnected("the fetching was broken off"))
            raise
        finally:
            # None may write when the file is somebody else's.
            for thread in threads:
                thread.join()

    def _receive(
        self, lane: Lane, pieces: Sequence[tuple[int, int]], arrival: agent_arrival.Arrival
    ) -> None:
        wanted: deque[tuple[int, int, str]] = deque()
        waiting = deque(pieces)

        def want() -> None:
            # What comes of a trial is awaited: on a line that is known to be slow, many pieces take long.
            while waiting and len(wanted) < _PIECES_AHEAD and not (wanted and self._packing.trying):
                start, end = waiting.popleft()
                codec = self._packing.wanted()
                lane.want(self._what, start, end - start, codec)
                wanted.append((start, end, codec))

        want()
        while wanted:
            start, end, codec = wanted.popleft()
            if codec:
                told, packed = lane.receive_packed(end - start, codec)
                files.write_at(self._descriptor, start, self._packing.opened(told, packed))
                arrival.note(start, end, end)
            else:
                self._receive_plain(lane, start, end, arrival)
            want()

    def _receive_plain(
        self, lane: Lane, start: int, end: int, arrival: agent_arrival.Arrival
    ) -> None:
        offset = start
        while offset < end:
            data = lane.receive(min(end - offset, _RECEIVE_BYTES))
            files.write_at(self._descriptor, offset, data)
            offset += len(data)
            arrival.note(start, offset, end)

    def _take_in(self, have: int) -> None:
        """Digest what has arrived without a gap; the header is no part of that."""
        while self._have < have:
            room = _READ_BYTES
            if not self._header:
                room = frames.HEADER_BYTES
                if have < room:
                    return
            data = os.pread(self._descriptor, min(room, have - self._have), self._have)
            if self._header:
                self._digest.update(data)
            else:
                self._header = data
            self._have += len(data)

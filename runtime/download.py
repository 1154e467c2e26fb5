"""Download: the sealed result on its way to this computer, through as many broken links as it takes."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

from dayfly.runtime.agent import arrival as agent_arrival
from dayfly.runtime.agent import files, frames, running_digest
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
_RECEIVE_BYTES = 4 << 20
# Whoever fetches hears of what has arrived when it is so much, or after so long.
_TOLD_BYTES, _TOLD_S = 4 << 20, 0.25


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
        # The header is no part of what it tells the digest of.
        self._digest = running_digest.RunningDigest(descriptor, frames.HEADER_BYTES)

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
        header = os.pread(self._descriptor, frames.HEADER_BYTES, 0)
        length, digest = frames.open_header(key, run_id, seq, header)
        self._digest.catch_up(self._have)
        payload = self._have - len(header)
        frames.check_payload(payload, self._digest.digest(), length, digest)

    def _by_frames(self, link: Link, heard: Callable[[], None], most: int) -> int:
        """Give the size of all of it; it is brought unless more than `most` bytes of it are missing."""
        request = {"op": "get", "what": self._what, "offset": self._have, "most": most}
        for answer, data in link.stream(request):
            heard()
            if data:
                files.write_at(self._descriptor, answer["offset"], data)
                self._digest.add(answer["offset"], data)
                self._have = answer["offset"] + len(data)
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
                have = arrival.await_more(self._have, step=_TOLD_BYTES, within_s=_TOLD_S)
                if have > self._have:
                    have = min(have, max(self._have, self._digest.done) + _TOLD_BYTES)
                    self._digest.catch_up(have)
                    self._have = have
                    self._packing.arrived(have)
                    heard()
        except BaseException:
            # A lane that is out of step is of no use any more, and without its link nobody waits for it.
            link.fail(Disconnected("the fetching was broken off"))
            raise
        finally:
            # None may write when the file is somebody else's.
            for thread in threads:
                thread.join()
            self._have = max(self._have, arrival.have)

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
            parts = lane.receive(min(end - offset, _RECEIVE_BYTES))
            files.write_parts_at(self._descriptor, offset, parts)
            self._digest.add(offset, *parts)
            offset += sum(map(len, parts))
            arrival.note(start, offset, end)

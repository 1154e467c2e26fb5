"""Taking content: large or small, by frames or over lanes."""

from __future__ import annotations

import sys

from .blobs import is_whole
from .lanes import Lanes
from .processes import launch_command
from .refusal import Refusal
from .transfer import Transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .channel import Channel
    from .job_folder import JobFolder
    from .store import Store


class ContentAnswers:
    """Content by digest that comes to this machine, and the lanes that it may come over."""

    def __init__(
        self, channel: Channel, store: Store, job: JobFolder, lend: Callable[[Any, int], None]
    ) -> None:
        """`lend` is for the lanes."""
        import threading

        self._opening = threading.Lock()
        self._channel, self._store = channel, store
        self._transfers: dict[int, Transfer] = {}
        self._lanes = Lanes(channel, job, self._transfers, lend)

    def close(self) -> None:
        """Listen no more."""
        self._lanes.close()

    def on_put(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Take content by digest that is small enough for one frame."""
        self._store.take(request["digest"], body)
        return {}

    def on_receive(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Take content that comes in pieces, by frames or over lanes; tells how much is there, and ends when all is.

        Its digest may be told later, so that nobody has to wait for it with sending.
        """
        size = request["size"]
        if request["digest"] and is_whole(self._store.path(request["digest"]), size):
            return {"have": size}
        transfer = self._opened(request)
        if request["digest"]:
            transfer.name(request["digest"])
        try:
            self._channel.emit(request, {"gaps": transfer.arrival.gaps()})
            digest = transfer.digested(
                lambda: is_whole(self._store.path(transfer.named), size),
                lambda have: self._channel.emit(request, {"have": have}),
            )
            if digest and digest != transfer.named:
                transfer.discard()
                kind = "stale" if transfer.resumed else "digest"
                raise Refusal(kind, "what arrived is not what was sent")
            transfer.keep(self._store.path(transfer.named))
            return {"have": size}
        finally:
            with self._opening:
                del self._transfers[request["of"]]
            transfer.close()

    def _opened(self, request: dict[str, Any]) -> Transfer:
        part = self._store.part(request["name"])
        with self._opening:
            if any(transfer.part == part for transfer in self._transfers.values()):
                # What is much alike, or the same twice: neither may write over the other's.
                part = f"{part}.{request['of']:x}"
            transfer = self._transfers[request["of"]] = Transfer(part, request["size"])
        return transfer

    def on_piece(self, request: dict[str, Any], body: bytes) -> None:
        """Take a piece of what is being received."""
        transfer = self._transfers.get(request["of"])
        if transfer is None:
            return
        start = request["offset"]
        if "codec" in request:
            transfer.write_packed(start, request["codec"], body, request["plain"])
        else:
            transfer.write(start, start, body, start + len(body))

    def on_named(self, request: dict[str, Any], body: bytes) -> None:
        """Learn the digest of what is being received."""
        transfer = self._transfers.get(request["of"])
        if transfer is not None:
            transfer.name(request["digest"])

    def on_lanes(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Listen for lanes, and tell where; nowhere where there is no place for a socket."""
        try:
            path = self._lanes.listen(request["most"])
        except OSError:
            return {"path": "", "relay": []}
        command = launch_command(sys.executable, ("-I", "-S"), "relay", path)
        return {"path": path, "relay": ["env", f"DAYFLY_RUN={self._channel.run_id}", *command]}

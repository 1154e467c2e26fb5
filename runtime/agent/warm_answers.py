"""Warm calls: what goes between a client and the zygote."""

from __future__ import annotations

import os
import time

from .files import in_folder
from .frames import encode
from .inbox import Inbox, parcel
from .refusal import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .channel import Channel
    from .job_folder import JobFolder
    from .store import Store


class WarmAnswers:
    """Parcels, carried both ways as they are."""

    def __init__(self, channel: Channel, store: Store, job: JobFolder) -> None:
        import threading

        self._channel, self._store, self._job = channel, store, job
        self._zygotes: dict[int, Any] = {}
        self._moving = threading.Lock()

    def on_warm(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Carry parcels between this client and the zygote until that one hangs up; the others come by `on_pass`."""
        self._job.require()
        channel = self._reach_zygote()
        self._zygotes[request["id"]] = channel
        inbox = Inbox()
        try:
            hello = {
                "generation": request["generation"],
                "blobs": os.path.dirname(self._store.path("")),
            }
            channel.sendall(parcel(encode(hello)))
            for data in iter(lambda: channel.recv(1 << 18), b""):
                for payload in inbox.payloads(data):
                    self._channel.emit(request, {}, payload)
        except ConnectionError:
            return {}
        finally:
            del self._zygotes[request["id"]]
            channel.close()
        return {}

    def _reach_zygote(self) -> Any:
        """Connect to it as soon as it listens."""
        import socket

        while True:
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                with self._moving:
                    in_folder(self._job.path, lambda: channel.connect("zygote"))  # noqa: B023 - called at once
                return channel
            except (FileNotFoundError, ConnectionRefusedError):
                channel.close()
            if self._job.status()["state"] == "ended":
                raise Refusal("ended", "the run takes no more calls: it has ended")
            time.sleep(0.005)

    def lend(self, connection: Any, generation: int) -> None:
        """Hand a connection of the client's on to the zygote, by one of its own: nothing else may come in between."""
        from .passing import send_with

        channel = self._reach_zygote()
        try:
            send_with(channel, parcel(encode({"shortcut": generation})), connection.fileno())
        finally:
            channel.close()

    def on_pass(self, request: dict[str, Any], body: bytes) -> None:
        """Hand a parcel on; where the zygote has gone, whoever asked for it hears of that by `on_warm`."""
        channel = self._zygotes.get(request["of"])
        if channel is not None:
            try:
                channel.sendall(parcel(body))
            except OSError:
                return

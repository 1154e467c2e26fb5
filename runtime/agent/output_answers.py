"""What the job has left in its folder for outputs."""

from __future__ import annotations

import os
import time

from .json_text import dumps, loads
from .output_folder import OutputFolder
from .snapshot import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .channel import Channel
    from .credit import Credit
    from .job_folder import JobFolder


class OutputAnswers:
    """The files of a folder of the job: which there are, and what is in them."""

    def __init__(self, channel: Channel, job: JobFolder) -> None:
        self._channel, self._job = channel, job

    def on_snapshot(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Have a folder of the job stand still, under its name with ".taken" behind, or give that up; tell whether it does.

        Where it cannot, whoever asks has the folder itself to look at.
        """
        folder = self._job.file(os.path.basename(request["of"]))
        snapshot, now_ns = Snapshot(folder, folder + ".taken"), time.time_ns()
        try:
            taken = not request["drop"] and snapshot.take()
        except OSError:
            taken = False
        if not taken:
            snapshot.drop()
        return {"taken": taken, "now_ns": now_ns}

    def on_outputs(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """List them, some at a time; a job whose folder is gone has left none."""
        credit = self._channel.credit(request)
        batch: list[Any] = []
        for entry in OutputFolder(self._job.file(os.path.basename(request["of"]))).entries():
            batch.append(entry)
            if len(batch) == OutputFolder.BATCH:
                self._emit_list(request, credit, batch)
                batch = []
        self._emit_list(request, credit, batch)
        return {}

    def _emit_list(self, request: Mapping[str, Any], credit: Credit, batch: list[Any]) -> None:
        data = dumps(batch).encode()
        credit.take(len(data))
        self._channel.emit(request, {"entries": len(batch)}, data)

    def on_files(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Send the files that are asked for as [path, offset, size], one after the other, each with its digest."""
        folder = OutputFolder(self._job.file(os.path.basename(request["of"])))
        credit = self._channel.credit(request)

        def send(head: dict[str, Any], data: bytes) -> None:
            credit.take(len(data))
            self._channel.emit(request, head, data)

        for number, (path, offset, size) in enumerate(loads(body)):
            try:
                for head, data in folder.read(path, offset, size):
                    send({"file": number, **head}, data)
            except ValueError as error:
                send({"file": number, "why": str(error)}, b"")
        return {}

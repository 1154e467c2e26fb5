"""Who answers what: a part of the agent is loaded when it is asked for the first time, because most sessions need few of them."""

from __future__ import annotations

import _thread

from .job_folder import JobFolder
from .store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .channel import Channel

    Answer = Callable[[dict[str, Any], bytes], "dict[str, Any] | None"]

# What each part answers.
PARTS = {
    "bucket": ("bucket",),
    "content": ("put", "receive", "piece", "named", "lanes"),
    "data": ("data_have", "data_pack", "data_tree"),
    "environment": ("environment", "system_packages"),
    "job": ("ping", "stat", "ack", "take", "start", "stop", "attach", "look", "get"),
    "machine": ("facts", "gpus", "host_key", "interpreter", "deadline", "ports", "alone", "clear"),
    "output": ("snapshot", "outputs", "files"),
    "warm": ("warm", "pass"),
}


class Answers:
    """The parts of one channel."""

    def __init__(self, channel: Channel, cache: str) -> None:
        self._channel, self._cache = channel, cache
        self._job, self._store = JobFolder.of(channel.run_id), Store(cache, channel.run_id)
        self._parts: dict[str, Any] = {}
        self._making = _thread.RLock()
        self._of = {op: part for part, ops in PARTS.items() for op in ops}

    def to(self, op: str) -> Answer | None:
        """Give what answers it; None where nothing does."""
        part = self._of.get(op)
        return None if part is None else getattr(self._part(part), "on_" + op)

    def close(self) -> None:
        """End what would outlive the channel."""
        # Without the lock: whoever has it may load something that never comes, and this is for getting away.
        for part in list(self._parts.values()):
            if hasattr(part, "close"):
                part.close()

    def _part(self, name: str) -> Any:
        """Give one, made once whichever threads ask for it."""
        with self._making:
            if name not in self._parts:
                self._parts[name] = self._made(name)
            return self._parts[name]

    def _made(self, name: str) -> Any:  # noqa: PLR0911 - one for each part
        channel, store, job, cache = self._channel, self._store, self._job, self._cache
        if name == "bucket":
            from .bucket_answers import BucketAnswers

            return BucketAnswers(channel, cache)
        if name == "content":
            from .content_answers import ContentAnswers

            return ContentAnswers(channel, store, job, self._part("warm").lend)
        if name == "data":
            from .data_answers import DataAnswers

            return DataAnswers(channel.run_id, store)
        if name == "environment":
            from .environment_answers import EnvironmentAnswers

            return EnvironmentAnswers(channel, store, cache)
        if name == "job":
            from .job_answers import JobAnswers

            return JobAnswers(channel, store, job, cache)
        if name == "machine":
            from .machine_answers import MachineAnswers

            return MachineAnswers(channel.run_id, cache)
        if name == "output":
            from .output_answers import OutputAnswers

            return OutputAnswers(channel, job)
        from .warm_answers import WarmAnswers

        return WarmAnswers(channel, store, job)

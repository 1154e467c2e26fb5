"""What a bucket keeps of earlier attempts, brought here before the job starts."""

from __future__ import annotations

import os
import time

from .facts import interpreter_at
from .files import home_folder, remove_tree
from .json_text import dumps, loads
from .processes import launch_command, login_environment
from .refusal import TEXT_CHARACTERS, Refusal, cleared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen
    from typing import Any

    from .channel import Channel


def restored_folder(run_id: str) -> str:
    """Where it waits for the job's start."""
    return os.path.join(home_folder(), f"data-{run_id}", "checkpoints")


class BucketAnswers:
    """The checkpoints that a bucket has for this run."""

    def __init__(self, channel: Channel, cache: str) -> None:
        self._channel, self._cache = channel, cache
        self._working: set[Popen[str]] = set()

    def on_bucket(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Bring the state that is there to where the start takes it from, and claim the bucket where that is asked for."""
        folder = restored_folder(self._channel.run_id)
        os.makedirs(os.path.dirname(folder), 0o700, exist_ok=True)
        # An agent whose connection has broken may still be at it.
        aside = f"{folder}.{os.getpid()}.{time.time_ns()}"
        python = interpreter_at(request["python"], self._cache)
        order = {name: request[name] for name in ("url", "secrets", "claim")}
        order["run_id"] = self._channel.run_id
        told, words = self._followed(
            request, launch_command(python, (), "restore", aside), dumps(order)
        )
        if "files" in told:
            remove_tree(folder)
            os.rename(aside, folder)
            return {name: told[name] for name in ("files", "bytes", "run")}
        why = told.get("why") or words[-TEXT_CHARACTERS:] or "the process that reads it has ended"
        raise Refusal(
            "data",
            f"checkpoints={request['url']!r} cannot be used from the machine: {why}. It has what secrets= gives it, and must"
            " be able to list, read, write and delete there",
        )

    def _followed(
        self, request: dict[str, Any], command: list[str], order: str
    ) -> tuple[dict[str, Any], str]:
        """Hand over how far it is; give the last that it has told, and what else it has said."""
        from subprocess import PIPE, STDOUT, Popen

        told: dict[str, Any] = {}
        words: list[str] = []
        process = Popen(
            command,
            # Python looks for modules there, too, and in a home there may be some of any name.
            cwd=os.path.dirname(restored_folder(self._channel.run_id)),
            env={**login_environment(self._channel.run_id), **request["variables"]},
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._working.add(process)
        try:
            with process:
                assert process.stdin is not None
                try:
                    process.stdin.write(order)
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # It ended at once; what it has said tells why.
                for line in process.stdout or ():
                    found = _told(line)
                    if "have" in found:
                        self._channel.emit(request, found)
                    elif found:
                        told = found
                    else:
                        words.append(line)
        finally:
            self._working.discard(process)
        return told, cleared("".join(words), request["secrets"])

    def close(self) -> None:
        """End what is still being brought: nobody hears of it."""
        import signal

        for process in list(self._working):
            try:
                os.killpg(process.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue


def _told(line: str) -> dict[str, Any]:
    try:
        told = loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}

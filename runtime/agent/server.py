"""The agent's end of one channel: what is answered aside, and what is not answered at all."""

from __future__ import annotations

import _thread
import os
import sys

from .answers import Answers
from .channel import Channel
from .frames import FrameError
from .packing import codecs
from .refusal import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Server:
    """Answers each request of one channel, the slow ones in a thread of their own."""

    # What sends more than the client may be able to take in.
    CREDITED = frozenset({"attach", "get", "outputs", "files"})
    THREADED = CREDITED | {
        "look",
        "receive",
        "snapshot",
        "environment",
        "system_packages",
        "stop",
        "facts",
        "gpus",
        "host_key",
        "deadline",
        "data_tree",
        "bucket",
        "warm",
        "clear",
        "ports",
        "alone",
    }

    def __init__(self, channel: Channel, cache: str) -> None:
        self._channel, self._answers = channel, Answers(channel, cache)

    def serve(self) -> None:
        """Answer until the channel closes, or its client has been silent for too long."""
        version = "%d.%d" % sys.version_info[:2]  # noqa: UP031
        hello = {"id": 0, "pid": os.getpid(), "python": version, "codecs": codecs()}
        self._channel.send(hello)
        self._channel.hearing.watch(self._end)
        for request, body in self._channel.requests():
            self._dispatch(request, body)

    def _end(self) -> None:
        """The thread that reads is at a read which may never end."""
        try:
            self.close()
        finally:
            os._exit(0)

    def close(self) -> None:
        """End what would outlive the channel."""
        self._answers.close()

    def _dispatch(self, request: dict[str, Any], body: bytes) -> None:
        if request["op"] == "credit":
            self._channel.give_credit(request["of"], request["bytes"], request.get("codec", ""))
        elif request["op"] in self.THREADED:
            # Until Python 3.12 it takes the thread that loads it for the main one.
            import threading  # noqa: F401

            if request["op"] in self.CREDITED:
                self._channel.lend(request)
            _thread.start_new_thread(self._answer, (request, body))
        else:
            self._answer(request, body)

    def _answer(self, request: dict[str, Any], body: bytes) -> None:
        try:
            answer = self._answered(request, body)
        except Refusal as refusal:
            answer = {"error": refusal.kind, "message": str(refusal)}
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the client must hear of it
            answer = {"error": "machine", "message": f"{type(error).__name__}: {error}"}
        finally:
            self._channel.settle(request)
        if answer is not None:
            try:
                self._channel.emit(request, {"done": True, **answer})
            except OSError:
                return  # The channel closed; the main thread is ending the process.

    def _answered(self, request: dict[str, Any], body: bytes) -> dict[str, Any] | None:
        answers = self._answers.to(request["op"])
        if answers is None:
            raise Refusal("machine", f"the agent has no answer to {request['op']!r}")
        return answers(request, body)


def serve(opening: bytes, cache: str) -> None:
    """Answer one session; the opening is nonce, key and run id, which the stub on the command line has read."""
    channel = Channel.of(opening)
    # What outlives this process carries the mark of its run in the environment that it starts with.
    os.environ["DAYFLY_RUN"] = channel.run_id
    os.umask(0o077)
    server = Server(channel, os.path.abspath(os.path.expanduser(cache)))
    try:
        server.serve()
    except FrameError as error:
        os.write(2, f"dayfly: {error}\n".encode())
    except Exception:  # noqa: BLE001 - the process ends below without another word
        sys.excepthook(*sys.exc_info())
    finally:
        server.close()
        # Threads may be waiting for credit that never comes.
        os._exit(0)

"""The processes that use a bucket, under the environment's Python: one fills a folder from it, one keeps it in step.

restore FOLDER    makes the folder, and tells on stdout in lines of JSON how far it is, and what came or why nothing did
sync JOBDIR       brings the job's checkpoints there while it runs, and once more when its supervisor says so, or is gone
"""

from __future__ import annotations

import json
import os
import time

from .bucket import Bucket, BucketError
from .checkpoint_folder import CheckpointFolder
from .files import remove_tree, write_all
from .job_folder import JobFolder
from .processes import end_process, take_order
from .refusal import TEXT_CHARACTERS, cleared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_TRIES, _PAUSE_S = 3, 1.0
_NAMED = 3
# Trying again would change nothing.
_FINAL = (BucketError, FileNotFoundError, ImportError, PermissionError)


def said(error: Exception, secrets: Mapping[str, str]) -> str:
    """Give an error in one line without what must stay secret."""
    text = str(error) if isinstance(error, BucketError) else f"{type(error).__name__}: {error}"
    if isinstance(error, ImportError):
        text = f"what reads and writes there is not installed on the machine ({error}); add it to environment="
    return " ".join(cleared(text, secrets).split())[:TEXT_CHARACTERS]


def restore(folder: str) -> None:
    """Fill the folder, and end this process."""
    order = _begun()

    def tell(**facts: Any) -> None:
        write_all(1, json.dumps(facts).encode() + b"\n")

    for left in reversed(range(_TRIES)):
        try:
            bucket = Bucket(order["url"], order["run_id"])
            if order["claim"]:
                # First: whoever wrote there until now stops.
                bucket.claim()
            files, size = bucket.restore(folder, lambda have, all_: tell(have=have, total=all_))
            tell(files=files, bytes=size, run=bucket.state.get("run", ""))
            break
        except Exception as error:  # noqa: BLE001 - each file system has its own, and the client is told of each
            remove_tree(folder)
            if _is_final(error) or not left:
                tell(why=said(error, order["secrets"]))
                break
            time.sleep(_PAUSE_S)
    end_process(0)


def _is_final(error: Exception) -> bool:
    # Google's file system has tried what is not authorized for half a minute by itself.
    return isinstance(error, _FINAL) or str(getattr(error, "code", "")) == "401"


def sync(path: str) -> None:
    """Keep the job's checkpoints in the bucket until its supervisor says that it has ended, and end this process."""
    order = _begun()
    # Inherited: held, it would say that the job still has its supervisor.
    if order["lock"] > 2:
        os.close(order["lock"])
    BucketSync(JobFolder(path), order).run()
    end_process(0)


def _begun() -> dict[str, Any]:
    order: dict[str, Any] = take_order()
    os.umask(0o077)
    # Before anything of a file system is imported: some look at them once.
    os.environ.update(order["secrets"])
    return order


class BucketSync:
    """One job's checkpoints on their way to a bucket."""

    def __init__(self, job: JobFolder, order: Mapping[str, Any]) -> None:
        self._job, self._order = job, order
        self._folder = CheckpointFolder(job.file("checkpoints"))
        self._pause_s: float = order["every_s"]
        self._bucket: Bucket | None = None
        self._complaint = ""
        self._told_of_held = False
        self._given_up = False

    def run(self) -> None:
        """Until the end of the pipe that the supervisor holds."""
        while not self._is_over() and not self._given_up:
            self._attempt()
        for _ in range(_TRIES):
            if self._given_up or self._attempt():
                return
            time.sleep(_PAUSE_S)

    def _is_over(self) -> bool:
        from select import select

        return bool(select([self._order["control"]], [], [], self._pause_s)[0])

    def _attempt(self) -> bool:
        """Bring what has changed; tell whether nothing is left to bring."""
        began = time.monotonic()
        try:
            if self._bucket is None:
                bucket = Bucket(self._order["url"], self._order["run_id"])
                bucket.load()
                self._bucket = bucket
            done = self._bucket.save(self._folder)
            if self._bucket.held and not self._told_of_held:
                self._told_of_held = True
                self._say("do not all get to", _words_of(self._bucket.held))
            return done
        except BucketError as error:
            self._given_up = True
            self._complain(error)
        except Exception as error:  # noqa: BLE001 - each file system has its own, and none is a reason to end the job
            self._complain(error)
        finally:
            # A line that is slow is not to be busy all the time.
            self._pause_s = max(self._order["every_s"], time.monotonic() - began)
        return False

    def _complain(self, error: Exception) -> None:
        """Say on the job's own log, once for each, why they do not get there."""
        text = said(error, self._order["secrets"])
        if text != self._complaint:
            self._complaint = text
            self._say("do not get to", text)

    def _say(self, what: str, why: str) -> None:
        line = f"dayfly: the function's checkpoints {what} {self._order['url']}: {why}\n"
        log = os.open(self._job.file("stderr.log"), os.O_WRONLY | os.O_APPEND)
        try:
            write_all(log, line.encode(errors="replace"))
        finally:
            os.close(log)


def _words_of(held: set[str]) -> str:
    # As JSON has them: nothing in a name moves a terminal's cursor.
    names = ", ".join(json.dumps(name) for name in sorted(held)[:_NAMED])
    more = f" and {len(held) - _NAMED} more" if len(held) > _NAMED else ""
    return (
        f"{names}{more}, written to whenever it is looked at, stays as it was there; write a file aside and rename it, and keep"
        " what always grows in DAYFLY_OUTPUT_DIR"
    )

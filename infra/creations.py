"""The durable record of every creating request of a run, written by the process that sends it.

A line is on the disk before the request is sent, and another when the answer is there, so that whoever closes the run knows
what may exist although engine and client died in between.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FILE = "creations.jsonl"

Outcome = Literal["open", "answered", "refused", "deleted"]


@dataclass(frozen=True)
class Creation:
    """One creating request.

    Attributes:
        token: tells it from the others of its run.
        kind: as `Found.kind`.
        begun: unix time just before it was sent.
        id: what the provider answered, "" while unknown.
        outcome: "open": sent, and no answer was seen; "answered": it exists; "refused": it never will; "deleted": it is gone.
        why: why it was refused, with the code.
        ended: unix time at which it was seen to be gone, 0 while it was not.
        twin: True where nobody asked for it: a launch was carried out twice.
        node: which machine of the run, for an instance.
    """

    token: str
    kind: str
    begun: float
    id: str = ""
    outcome: Outcome = "open"
    why: str = ""
    ended: float = 0.0
    twin: bool = False
    node: int = 0


def begin(directory: Path, kind: str, node: int = 0) -> Creation:
    """Records that a request is about to be sent; returns when that is on the disk."""
    creation = Creation(secrets.token_hex(4), kind, time.time(), node=node)
    said = {"token": creation.token, "kind": kind, "begun": creation.begun}
    _append(directory, said | _of(node))
    return creation


def again(directory: Path, creation: Creation) -> None:
    """Records that the same request is about to be sent once more: it may be carried out for so long from now."""
    _append(directory, {"token": creation.token, "begun": time.time()})


def answered(directory: Path, creation: Creation, id: str) -> None:
    """Records the id that came of a request."""
    _append(directory, {"token": creation.token, "id": id, "outcome": "answered"})


def refused(directory: Path, creation: Creation, why: str) -> None:
    """Records that nothing will ever come of a request."""
    _append(directory, {"token": creation.token, "outcome": "refused", "why": why})


def _of(node: int | None) -> dict[str, int]:
    return {"node": node} if node else {}


def found(directory: Path, id: str, node: int | None = None) -> None:
    """Records a machine that carries the run's tag and has to be billed: it is what came of a launch without an answer, or a
    twin, which may have lived since the first launch of the run. One that is on record already is left as it is.

    Args:
        directory: the run's.
        id: of the machine.
        node: which machine of the run it says that it is; None where that is not known.
    """
    made = [creation for creation in read(directory) if creation.kind == "instance"]
    if any(creation.id == id for creation in made):
        return
    made = [creation for creation in made if node in (None, creation.node)]
    unanswered = next((creation for creation in made if creation.outcome == "open"), None)
    if unanswered is not None:
        answered(directory, unanswered, id)
        return
    begun = min((c.begun for c in made if c.outcome != "refused"), default=time.time())
    said: dict[str, object] = {
        "token": secrets.token_hex(4),
        "kind": "instance",
        "begun": begun,
        "id": id,
    }
    _append(directory, said | _of(node) | {"outcome": "answered", "twin": True})


def twins(directory: Path, listed: Mapping[str, bool], node: int | None = None) -> bool:
    """Records the twins that a listing of a run shows, and that those are gone which it shows no more.

    Args:
        directory: the run's.
        listed: ids of its machines, each with whether it costs money.
        node: which machine of the run all of them say that they are; None where all are listed that there are.

    Returns:
        Whether a twin still costs money.
    """
    for id, costs in listed.items():
        if costs:
            found(directory, id, node)
    left = [
        c.id
        for c in read(directory)
        if c.twin and c.outcome == "answered" and node in (None, c.node)
    ]
    for id in left:
        if not listed.get(id):
            deleted(directory, id)
    return any(listed.get(id) for id in left)


def deleted(directory: Path, id: str) -> None:
    """Records that something is gone, if its run still has a record."""
    for creation in read(directory):
        if creation.id == id and creation.outcome != "deleted":
            _append(
                directory, {"token": creation.token, "outcome": "deleted", "ended": time.time()}
            )


def read(directory: Path) -> tuple[Creation, ...]:
    """Everything that a run has asked for, the oldest first; a line that is cut short is passed over.

    Raises:
        OSError: the record is there and cannot be read now: nothing may be concluded from that.
    """
    try:
        lines = (directory / FILE).read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    found: dict[str, Creation] = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(line)
            before = found.get(said["token"])
            found[said["token"]] = Creation(
                said["token"],
                said["kind"] if before is None else before.kind,
                float(said["begun"]) if before is None or "begun" in said else before.begun,
                said.get("id", before.id if before else ""),
                said.get("outcome", "open"),
                said.get("why", ""),
                # Of two that have seen it gone, the first one ends its bill.
                (before.ended if before else 0.0) or float(said.get("ended", 0.0)),
                bool(said.get("twin", before.twin if before else False)),
                int(said.get("node", before.node if before else 0)),
            )
    return tuple(found.values())


def _append(directory: Path, said: dict[str, object]) -> None:
    file = directory / FILE
    fresh = not file.exists()
    # A line that a full disk or a crash cut short must not swallow the next one.
    line = b"\n" + json.dumps(said).encode()
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if fresh:
        _sync_folder(directory)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A job on a real SSH server without a stack: many runs share one server, each with keys and a folder of its own."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle

from dayfly.runtime import payload
from dayfly.runtime.agent import frames
from dayfly.runtime.records import Keys, Task
from tests.sshd import Server

_MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


def function(seed: int, lines: int, size: int, pause_s: float, starts: str) -> bytes:
    """Counts its starts, prints numbered lines to both streams, and returns bytes that the seed gives again."""
    import time

    with open(starts, "a") as file:  # noqa: PTH123  # it travels: builtins only
        file.write("started\n")
    for number in range(lines):
        print(f"step {number} of seed {seed} {'.' * 150}", flush=True)
        if number % 10 == 0:
            print(f"warning {number} of seed {seed}", file=sys.stderr, flush=True)
        time.sleep(pause_s)
    return random.Random(seed).randbytes(size)


@dataclass
class Log:
    """Takes what a session brings, and notes a gap or a repeat."""

    held: dict[str, bytearray] = field(
        default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()}
    )
    wrong: list[str] = field(default_factory=list)

    def __call__(self, stream: str, offset: int, data: bytes) -> None:
        held = self.held[stream]
        if offset != len(held):
            self.wrong.append(f"{stream} has {len(held)} bytes and got the next ones for {offset}")
        held += data


@dataclass(frozen=True)
class MachineJob:
    """One run of `function` on a server.

    Attributes:
        server: whose machine.
        folder: of this run on the client.
        keys: its own.
        seed, lines, size: what it prints and returns.
    """

    server: Server
    folder: Path
    keys: Keys
    seed: int
    lines: int
    size: int
    pause_s: float = 0.004

    @classmethod
    def new(cls, server: Server, folder: Path, seed: int, lines: int, size: int) -> MachineJob:
        """A run that nobody knows yet; the server lets in every one of them with the same login key."""
        folder.mkdir(parents=True)
        keys = Keys(secrets.token_hex(16), server.keys.user_key, secrets.token_bytes(32))
        return cls(server, folder, keys, seed, lines, size)

    @property
    def on_machine(self) -> Path:
        """Its folder on the machine."""
        return self.server.home / f"job-{self.keys.run_id}"

    @property
    def starts(self) -> int:
        """How often the function was started."""
        file = self.folder / "starts"
        return len(file.read_text().splitlines()) if file.exists() else 0

    @property
    def log(self) -> dict[str, bytes]:
        """What it prints."""
        out = [f"step {n} of seed {self.seed} {'.' * 150}\n" for n in range(self.lines)]
        err = [f"warning {n} of seed {self.seed}\n" for n in range(0, self.lines, 10)]
        return {"stdout": "".join(out).encode(), "stderr": "".join(err).encode()}

    @property
    def digest(self) -> str:
        """Of the value that it returns."""
        return hashlib.sha256(random.Random(self.seed).randbytes(self.size)).hexdigest()

    def task(self) -> Task:
        """The call, sealed for this run."""
        arguments = (self.seed, self.lines, self.size, self.pause_s, str(self.folder / "starts"))
        return sealed_task(self.keys, by_value(function), arguments, self.folder.parent)

    def value(self, file: Path) -> tuple[dict[str, Any], Any]:
        """The header and the value of a result that was brought home."""
        sealed = frames.unseal(
            self.keys.hmac_key, self.keys.run_id, frames.RESULT_SEQ, file.read_bytes()
        )
        head, _, pickled = sealed.partition(b"\n")
        header: dict[str, Any] = json.loads(head)
        return header, pickle.loads(pickled)


def by_value(given: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one of the main module, so that it travels whole: the machine has no tests."""
    import types

    copied = types.FunctionType(
        given.__code__,
        {"random": random, "sys": sys, "__name__": "__main__", "__builtins__": __builtins__},
        given.__name__,
    )
    copied.__module__ = "__main__"
    return copied


def sealed_task(
    keys: Keys, called: Callable[..., Any], arguments: tuple[Any, ...], cache: Path
) -> Task:
    """What a session starts."""
    header = {"python": _MINOR, "function": "test:function", "imports": [], "sources": {}}
    packed = (
        json.dumps(header).encode() + b"\n" + cloudpickle.dumps((called, arguments, {}), protocol=5)
    )
    sealed = frames.seal(keys.hmac_key, keys.run_id, frames.TASK_SEQ, packed)
    python = os.path.realpath(sys.executable)
    return Task(sealed=sealed, python=python, pickler=payload.pickler_zip(cache), grace_s=2)

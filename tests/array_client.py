"""A client process that sends a large buffer and may get another: prints by how many bytes its memory has grown at most.

`python -m tests.array_client FOLDER in|both|tensors warm|own|nodes BYTES`: the folder is for it alone; its machines are real OpenSSH servers there.
"""

from __future__ import annotations

import os
import pickle
import resource
import sys
from pathlib import Path
from typing import Any

import psutil

from dayfly.runtime import payload, stored
from dayfly.runtime.agent import frames
from dayfly.runtime.records import Task
from dayfly.runtime.session import Session
from tests.sshd import Server, sshd
from tests.warm import begun

_BLOCK = 1 << 20


class Array:
    """Pickled as NumPy's arrays are: its buffer in one piece, which becomes that of the copy."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Array, (pickle.PickleBuffer(self.data),)


def filled(size: int, seed: int) -> Array:
    """One whose blocks differ, made without a second one beside it."""
    data = bytearray(size)
    for number in range(size // _BLOCK):
        data[number * _BLOCK] = (number + seed) % 251
    return Array(data)


def is_whole(array: Any, size: int, seed: int) -> bool:
    """Whether it is that one."""
    marks = range(size // _BLOCK)
    return len(array.data) == size and all(
        array.data[number * _BLOCK] == (number + seed) % 251 for number in marks
    )


def taken(array: Any) -> bool:
    """One in."""
    return is_whole(array, len(array.data), 1)


def exchanged(array: Any) -> Any:
    """One in, another out."""
    return filled(len(array.data), 2) if is_whole(array, len(array.data), 1) else None


def filled_tensor(size: int, seed: int) -> Any:
    """The same as a tensor of torch."""
    import torch

    made = torch.full((size,), 255, dtype=torch.uint8)
    made[::_BLOCK] = torch.arange(seed, seed + size // _BLOCK).remainder(251).to(torch.uint8)
    return made


def exchanged_tensors(tensor: Any) -> Any:
    """One in, another out."""
    size = len(tensor)
    return filled_tensor(size, 2) if is_whole(tensor, size, 1) else None


def own(server: Server, folder: Path, function: Any, array: Any) -> Any:
    """As a call does that has a machine of its own."""
    keys = server.keys
    (directory := folder / keys.run_id).mkdir()
    (directory / "hmac_key").write_bytes(keys.hmac_key)
    packed = payload.pack(function, (array,), {})
    with Session(server.machine, keys) as session:
        sealed = packed.task.sealed(keys.hmac_key, keys.run_id, frames.TASK_SEQ)
        # With what is installed beside it only where that is needed.
        tensors = function is exchanged_tensors
        python = sys.executable if tensors else os.path.realpath(sys.executable)
        session.start(Task(sealed, python, payload.pickler_zip(folder)))
        session.follow(lambda *_: None)
        session.fetch_result(directory / stored.RESULT)
    return stored.value(directory)


def alone(folder: Path, function: Any, made: Any, way: str, size: int) -> tuple[int, Any]:
    """As a call on one machine does; and what was in memory before it."""
    with sshd(folder / "machine") as server:
        if way == "own":
            return resident_bytes(), own(server, folder, function, made(size, 1))
        with begun(server, folder, None, {}) as run:
            assert run.call(function, made(8 * _BLOCK, 1))
            return resident_bytes(), run.call(function, made(size, 1))


def shared(folder: Path, function: Any, made: Any, size: int) -> tuple[int, Any]:
    """As a call does that Dask gives to one of two machines; and what was in memory before it."""
    from tests.machines import machines
    from tests.test_dask_calls import Run

    with machines(folder, 2) as servers:
        run = Run(servers, folder)
        with run.fleet:
            run.begin()

            def called(size: int) -> Any:
                return run.have(function).submit_all([((made(size, 1),), {})])[0].result()

            called(8 * _BLOCK)
            before = resident_bytes()
            value = called(size)
            run.end()
    return before, value


def peak_bytes() -> int:
    """The most that this process has had in memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """What it has there now."""
    return int(psutil.Process().memory_info().rss)


def main(folder: Path, kind: str, way: str, size: int) -> None:
    """Prints how much more memory it took than what a small call takes."""
    function = {"in": taken, "both": exchanged, "tensors": exchanged_tensors}[kind]
    made = filled_tensor if kind == "tensors" else filled
    made(_BLOCK, 1)  # What it takes to have torch is no part of it.
    if way == "nodes":
        before, value = shared(folder, function, made, size)
    else:
        before, value = alone(folder, function, made, way, size)
    grown = peak_bytes() - before
    assert value is True if kind == "in" else is_whole(value, size, 2)
    print(grown)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
